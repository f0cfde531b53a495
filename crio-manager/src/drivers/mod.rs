//! One seam per outside thing; no driver knows another.

pub mod image;
