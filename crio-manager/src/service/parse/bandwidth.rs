//! The limits of a pod's traffic, which the kubelet's users write as annotations of the pod.

use super::{Parsed, wrong};
use crate::model::name::Pairs;
use crate::model::sandbox::Bandwidth;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// What Kubernetes lets a user ask for, in bits per second.
const RANGE: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;

pub fn bandwidth(annotations: &Pairs) -> Parsed<Option<Bandwidth>> {
    let limit = |name: &str| {
        let Some(text) = annotations.get(name) else {
            return Ok(None);
        };
        match quantity(text).filter(|rate| RANGE.contains(rate)) {
            Some(rate) => Ok(Some(rate)),
            None => Err(wrong(
                &format!("config.annotations[{name}]"),
                format!("{text:?} is no quantity from 1k to 1P"),
            )),
        }
    };
    let limits = Bandwidth {
        ingress: limit(INGRESS)?,
        egress: limit(EGRESS)?,
    };
    Ok((limits != Bandwidth::default()).then_some(limits))
}

/// A quantity of Kubernetes: a decimal number and perhaps a unit, as in `1.5M` or `10Mi`. Parts of one are dropped.
fn quantity(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit: u64 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    // More digits than a unit has count for nothing.
    let (digits, scale) = part.bytes().take(15).fold((0_u128, 1_u128), |(digits, scale), digit| {
        (digits * 10 + u128::from(digit.wrapping_sub(b'0')), scale * 10)
    });
    if !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    whole.checked_add(u64::try_from(digits * u128::from(unit) / scale).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, text: &str) -> Parsed<Option<Bandwidth>> {
        bandwidth(&Pairs::from([(name.to_owned(), text.to_owned())]))
    }

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for (text, bits) in [
            ("1000", 1_000),
            ("10M", 10_000_000),
            ("1.5M", 1_500_000),
            ("10Mi", 10 << 20),
            ("1P", 1_000_000_000_000_000),
        ] {
            assert_eq!(asked(INGRESS, text).unwrap().unwrap().ingress, Some(bits), "{text}");
            assert_eq!(asked(EGRESS, text).unwrap().unwrap().egress, Some(bits), "{text}");
        }
        assert_eq!(bandwidth(&Pairs::new()).unwrap(), None);
    }

    #[test]
    fn what_is_no_quantity_is_refused_by_its_name() {
        for text in [
            "",
            "M",
            "fast",
            "-1M",
            "1e",
            "1.2.3M",
            "999",
            "2P",
            "99999999999999999999",
            "1m",
            "1 M",
            ".",
        ] {
            let refusal = asked(EGRESS, text).unwrap_err();
            assert!(refusal.message().contains(EGRESS), "{text}: {refusal}");
        }
    }
}
