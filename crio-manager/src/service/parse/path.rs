//! Paths of the host.

use super::{Parsed, no_nul, wrong};
use std::path::{Component, Path, PathBuf};

/// Longest file name and path, in bytes, the closing NUL of a path included: what the kernel takes.
const FILE_NAME_BYTES: usize = 255;
const PATH_BYTES: usize = 4096;

/// An absolute path of the host without `..`.
pub fn absolute(field: &str, value: String) -> Parsed<PathBuf> {
    let path = PathBuf::from(no_nul(field, value)?);
    if !path.is_absolute() {
        return Err(wrong(field, format!("{} is not an absolute path", path.display())));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(wrong(field, format!("{} holds ..", path.display())));
    }
    Ok(path)
}

/// Below the pod's log directory, and nowhere else.
pub(super) fn log_path(directory: Option<&Path>, asked: &str) -> Parsed<Option<PathBuf>> {
    let Some(directory) = directory.filter(|_| !asked.is_empty()) else {
        return Ok(None);
    };
    let relative = Path::new(asked);
    let plain = relative.components().all(|part| match part {
        Component::Normal(name) => name.len() <= FILE_NAME_BYTES,
        Component::CurDir => true,
        Component::Prefix(_) | Component::RootDir | Component::ParentDir => false,
    });
    let plain = plain && directory.as_os_str().len() + asked.len() < PATH_BYTES;
    if !plain || asked.contains(|c: char| c.is_control()) || asked.ends_with('/') {
        return Err(wrong(
            "config.log_path",
            format!("{asked:?} is not a file below the pod's log directory"),
        ));
    }
    Ok(Some(directory.join(relative)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::parse::tests::{parsed_container, parsed_pod, refused};
    use proptest::prelude::*;

    #[test]
    fn logs_stay_below_the_directory_of_the_pod() {
        for bad in ["../x", "a/../../x", "/etc/passwd", "a\0b", "a\nb", "dir/"] {
            refused(parsed_container(|c| c.log_path = bad.into()), "log_path");
        }
        refused(parsed_pod(|pod| pod.log_directory = "relative".into()), "log_directory");
        refused(
            parsed_pod(|pod| pod.log_directory = "/var/../etc".into()),
            "log_directory",
        );
    }

    proptest! {
        #[test]
        fn a_log_never_leaves_its_directory(path in "[a./\\\\]{0,12}|.{0,40}") {
            if let Ok(Some(parsed)) = log_path(Some(Path::new("/logs")), &path) {
                prop_assert!(parsed.starts_with("/logs"));
                prop_assert!(!parsed.components().any(|part| part == Component::ParentDir));
            }
        }
    }
}
