//! What pulls have fetched and what was here already, counted since the daemon began.

use super::Error;
use super::manifest::Descriptor;
use crate::drivers::seams::DriverError;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

/// Upper bounds of the sizes of layers, in bytes; CRI-O's.
const SIZE_BOUNDS: [f64; 11] = [1e3, 1e6, 1e7, 5e7, 1e8, 2e8, 3e8, 4e8, 5e8, 1e9, 1e10];

/// The numbers. A clone is the same ones.
#[derive(Debug, Clone)]
pub struct Transfers {
    /// Pulls that ended well.
    pub succeeded: Counter,
    /// Pulls that failed, by the kind of error.
    pub failed: Family<[(&'static str, &'static str); 1], Counter>,
    /// Bytes of layers that were fetched, by how they are packed.
    pub fetched_bytes: Family<[(&'static str, &'static str); 1], Counter>,
    /// Their sizes.
    pub layer_sizes: Histogram,
    /// Layers that were here already.
    pub reused_layers: Counter,
    /// Their bytes.
    pub reused_bytes: Counter,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            succeeded: Counter::default(),
            failed: Family::default(),
            fetched_bytes: Family::default(),
            layer_sizes: Histogram::new(SIZE_BOUNDS),
            reused_layers: Counter::default(),
            reused_bytes: Counter::default(),
        }
    }
}

impl Transfers {
    /// A layer was fetched.
    pub(super) fn fetched(&self, blob: &Descriptor) {
        let packed = [("mediatype", packing(&blob.media_type))];
        self.fetched_bytes.get_or_create(&packed).inc_by(blob.size);
        #[expect(clippy::cast_precision_loss, reason = "sizes are put into buckets")]
        self.layer_sizes.observe(blob.size as f64);
    }

    /// A layer was here.
    pub(super) fn reused(&self, blob: &Descriptor) {
        self.reused_layers.inc();
        self.reused_bytes.inc_by(blob.size);
    }

    /// A pull has ended.
    pub(super) fn ended<T>(&self, outcome: &Result<T, Error>) {
        match outcome {
            Ok(_) => self.succeeded.inc(),
            Err(error) => {
                let kind = DriverError::from(error.clone()).kind;
                self.failed.get_or_create(&[("error", kind.word())]).inc()
            }
        };
    }
}

/// How a layer is packed. Its media type is a registry's word, and so no label.
fn packing(media_type: &str) -> &'static str {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
            "tar+gzip"
        }
        "application/vnd.oci.image.layer.v1.tar+zstd" => "tar+zstd",
        "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => "tar",
        _ => "other",
    }
}
