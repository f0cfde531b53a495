//! The name of an image.

use super::{Parsed, required, wrong};
use cri::v1;

/// The image that a request names; never empty.
pub fn image(spec: Option<v1::ImageSpec>) -> Parsed<String> {
    let image = required("image", spec)?.image;
    if image.is_empty() {
        Err(wrong("image.image", "empty"))
    } else {
        Ok(image)
    }
}
