//! What the error channel of an exec or attach says at the end, in the form of the field's clients.

use serde_json::json;

/// How a remote command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// With code 0, or there is no code.
    Success,
    /// With another one.
    ExitCode(i32),
    /// It did not run, or nobody knows how it ended.
    Failed(String),
}

impl Status {
    /// As protocols from version 4 on have it: one JSON object, always.
    pub fn json(&self) -> String {
        let object = match self {
            Status::Success => json!({ "metadata": {}, "status": "Success" }),
            Status::ExitCode(code) => json!({
                "metadata": {},
                "status": "Failure",
                "reason": "NonZeroExitCode",
                "message": self.text(),
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            }),
            Status::Failed(_) => json!({
                "metadata": {},
                "status": "Failure",
                "reason": "InternalError",
                "code": 500,
                "message": self.text(),
            }),
        };
        object.to_string()
    }

    /// As older ones have it: a sentence; empty for success.
    pub fn text(&self) -> String {
        match self {
            Status::Success => String::new(),
            Status::ExitCode(code) => {
                format!("command terminated with non-zero exit code: exit status {code}")
            }
            Status::Failed(why) => format!("Internal error occurred: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_a_cause_in_decimal() {
        let status: serde_json::Value = serde_json::from_str(&Status::ExitCode(137).json()).unwrap();
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "137");
    }

    #[test]
    fn success_is_an_object_from_version_4_on_and_nothing_before() {
        let status: serde_json::Value = serde_json::from_str(&Status::Success.json()).unwrap();
        assert_eq!(status["status"], "Success");
        assert_eq!(Status::Success.text(), "");
    }
}
