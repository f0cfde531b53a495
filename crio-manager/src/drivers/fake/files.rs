//! The parts of the fake node that keep files: images, bundles, the host, records.

use super::FakeNode;
use crate::drivers::image::PullRequest;
use crate::drivers::seams::*;
use crate::model::cdi::CdiName;
use crate::model::container::ImageMount;
use crate::model::record::{ContainerRecord, SandboxFiles, SandboxRecord};
use crate::model::selinux::{Label, View};
use crate::model::users::{Owner, PodUsers};
use crate::model::{ContainerId, SandboxId, SandboxPlan};
use crate::spec::ContainerPath;
use crate::spec::cdi::Edits;
use crate::spec::hooks::HookFile;
use async_trait::async_trait;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

#[async_trait]
impl Images for FakeNode {
    async fn resolve(&self, image: &str) -> DriverResult<ResolvedImage> {
        if image == "missing" {
            return Err(DriverError::new(ErrorKind::NotFound, "no image \"missing\""));
        }
        let mut resolved = ResolvedImage {
            id: "sha256:1".to_owned(),
            ..ResolvedImage::default()
        };
        resolved.config.cmd = vec!["sh".to_owned()];
        // An image of a checkpoint, and one whose own image is a checkpoint.
        if image.starts_with("checkpoint") {
            resolved.id = image.to_owned();
            resolved.is_checkpoint = true;
        }
        Ok(resolved)
    }

    async fn mount_rootfs(&self, id: &ContainerId, _: &str, _: &View) -> DriverResult<PathBuf> {
        self.enter("mount rootfs").await;
        self.make(format!("rootfs {}", id.short()))?;
        Ok("/rootfs".into())
    }

    async fn mount_image(
        &self,
        id: &ContainerId,
        number: usize,
        image: &ImageMount,
        _: &View,
    ) -> DriverResult<MountedImage> {
        self.make(format!("rootfs {}", id.short()))?;
        Ok(MountedImage {
            image_id: Images::resolve(self, &image.image).await?.id,
            path: format!("/images/{number}").into(),
        })
    }

    async fn unmount_rootfs(&self, id: &ContainerId) -> DriverResult<()> {
        self.enter("unmount rootfs").await;
        self.remove_place(id).await?;
        self.release(format!("rootfs {}", id.short()))
    }

    async fn read_file(&self, _: &Path, _: &str) -> DriverResult<Option<Vec<u8>>> {
        Ok(None)
    }

    async fn ensure_dir(&self, _: &Path, _: &str, _: Owner) -> DriverResult<()> {
        Ok(())
    }

    async fn pull(&self, request: PullRequest) -> DriverResult<String> {
        self.enter("pull").await;
        Ok(request.image)
    }

    async fn load(&self, _: &Path) -> DriverResult<Vec<(String, Vec<String>)>> {
        Ok(Vec::new())
    }

    fn find(&self, _: &str) -> DriverResult<Option<ImageSummary>> {
        Ok(None)
    }

    fn list(&self) -> DriverResult<Vec<ImageSummary>> {
        Ok(Vec::new())
    }

    async fn remove(&self, image: &str, in_use: InUse) -> DriverResult<()> {
        self.enter("remove image").await;
        if in_use(image) {
            Err(DriverError::new(ErrorKind::InUse, "in use"))
        } else {
            Ok(())
        }
    }

    async fn space(&self) -> DriverResult<Space> {
        Ok(Space::default())
    }

    async fn layer_usage(&self, _: &ContainerId) -> DriverResult<LayerUsage> {
        self.enter("measure layer").await;
        Ok(LayerUsage {
            used_bytes: 4096,
            used_inodes: 1,
        })
    }

    fn usage(&self) -> ImageFsUsage {
        ImageFsUsage {
            mountpoint: "/".into(),
            used_bytes: 0,
            used_inodes: 0,
            at: self.now(),
        }
    }
}

#[async_trait]
impl Checkpoints for FakeNode {
    async fn make_place(&self, id: &ContainerId) -> DriverResult<CheckpointPlace> {
        self.make(format!("checkpoint {}", id.short()))?;
        Ok(place())
    }

    fn place(&self, id: &ContainerId) -> Option<CheckpointPlace> {
        let held = format!("checkpoint {}", id.short());
        self.state.lock().unwrap().held.contains(&held).then(place)
    }

    async fn remove_place(&self, id: &ContainerId) -> DriverResult<()> {
        self.release(format!("checkpoint {}", id.short()))
    }

    async fn export(&self, _: &ContainerId, export: CheckpointExport) -> DriverResult<()> {
        self.enter("write archive").await;
        if std::time::Instant::now() >= export.until {
            return Err(DriverError::new(ErrorKind::TimedOut, "the checkpoint took too long"));
        }
        // Whole, or not at all.
        let archive = format!("archive {}", export.location.display());
        self.make(archive.clone()).inspect_err(|_| {
            self.state.lock().unwrap().held.remove(&archive);
        })
    }

    async fn inspect(&self, from: &CheckpointSource) -> DriverResult<CheckpointHead> {
        let mut head = CheckpointHead {
            images: vec!["sha256:1".to_owned()],
            mounts: Vec::new(),
        };
        match from {
            CheckpointSource::Archive(path) if path == Path::new("/mounts.tar") => {
                head.mounts = vec!["/data".to_owned(), "/etc/hosts".to_owned()];
            }
            CheckpointSource::Image(id) if id == "checkpoint-of-checkpoint" => {
                head.images = vec!["checkpoint".to_owned()];
            }
            _ => {}
        }
        Ok(head)
    }

    async fn import(&self, id: &ContainerId, _: &CheckpointSource, _: &Path) -> DriverResult<CheckpointPlace> {
        self.make_place(id).await
    }
}

fn place() -> CheckpointPlace {
    CheckpointPlace {
        images: "/checkpoint/images".into(),
        work: "/checkpoint/work".into(),
    }
}

#[async_trait]
impl Bundles for FakeNode {
    async fn make_sandbox(&self, plan: &SandboxPlan, _: Option<&Label>) -> DriverResult<SandboxFiles> {
        self.make(format!("pod files {}", plan.id.short()))?;
        Ok(SandboxFiles {
            resolv_conf: "/resolv.conf".into(),
            hosts: "/hosts".into(),
            hostname: "/hostname".into(),
            shm: Some("/shm".into()),
        })
    }

    async fn write_hosts(&self, plan: &SandboxPlan, _: &[IpAddr]) -> DriverResult<()> {
        self.make(format!("pod files {}", plan.id.short()))
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> DriverResult<()> {
        self.release(format!("pod files {}", id.short()))
    }

    fn path(&self, id: &ContainerId) -> PathBuf {
        format!("/bundle/{id}").into()
    }

    async fn write(&self, id: &ContainerId, name: &str, content: &[u8], _: Readers) -> DriverResult<PathBuf> {
        self.make(format!("bundle {}", id.short()))?;
        if name == "config.json" {
            self.state.lock().unwrap().specs.insert(id.clone(), content.to_vec());
        }
        Ok(self.path(id))
    }

    async fn make_dir(&self, id: &ContainerId, _: &Path, _: Owner) -> DriverResult<()> {
        self.make(format!("bundle {}", id.short()))
    }

    async fn mount_for(&self, id: &ContainerId, number: usize, _: &Path, _: &PodUsers) -> DriverResult<PathBuf> {
        self.make(format!("bundle {}", id.short()))?;
        Ok(self.path(id).join(number.to_string()))
    }

    async fn unmount_copies(&self, _: &ContainerId) -> DriverResult<()> {
        Ok(())
    }

    async fn copy(&self, id: &ContainerId, _: &Path, _: &Path) -> DriverResult<()> {
        self.make(format!("bundle {}", id.short()))
    }

    async fn read_spec(&self, id: &ContainerId) -> DriverResult<Vec<u8>> {
        let spec = self.state.lock().unwrap().specs.get(id).cloned();
        spec.ok_or_else(|| DriverError::new(ErrorKind::NotFound, "no spec"))
    }

    async fn make_infra_rootfs(&self, id: &SandboxId, _: Owner) -> DriverResult<PathBuf> {
        self.make(format!("pod files {}", id.short()))?;
        Ok("/pause".into())
    }

    async fn remove(&self, id: &ContainerId) -> DriverResult<()> {
        self.release(format!("bundle {}", id.short()))
    }
}

#[async_trait]
impl HostFiles for FakeNode {
    async fn ensure_dir(&self, path: &Path) -> DriverResult<PathBuf> {
        Ok(path.to_owned())
    }

    async fn exists(&self, _: &Path) -> bool {
        false
    }

    async fn remove_file(&self, _: &Path) -> DriverResult<()> {
        Ok(())
    }

    async fn devices(&self, _: &Path) -> DriverResult<Vec<HostDevice>> {
        Ok(Vec::new())
    }

    async fn all_devices(&self) -> DriverResult<Vec<HostDevice>> {
        Ok(Vec::new())
    }

    async fn has_label(&self, path: &Path, label: &Label) -> DriverResult<bool> {
        let labels = &self.state.lock().unwrap().labels;
        Ok(labels.get(path) == Some(&label.to_string()))
    }

    async fn relabel(&self, path: &Path, label: &Label) -> DriverResult<()> {
        let state = &mut self.state.lock().unwrap();
        state.relabelled.push(path.to_owned());
        state.labels.insert(path.to_owned(), label.to_string());
        Ok(())
    }

    async fn read(&self, path: &Path, _: u64) -> DriverResult<Vec<u8>> {
        Err(DriverError::new(ErrorKind::NotFound, path.display().to_string()))
    }
}

#[async_trait]
impl NodeAdditions for FakeNode {
    async fn cdi(&self, _: &[PathBuf], devices: &[CdiName]) -> DriverResult<Edits> {
        match devices.first() {
            None => Ok(Edits::default()),
            Some(device) => Err(DriverError::new(ErrorKind::Invalid, format!("no CDI device {device}"))),
        }
    }

    async fn hooks(&self, _: &[PathBuf]) -> DriverResult<Vec<HookFile>> {
        Ok(Vec::new())
    }

    async fn default_mounts(&self, files: &[PathBuf]) -> DriverResult<Vec<(PathBuf, ContainerPath)>> {
        let path = ContainerPath::parse("/run/secrets").unwrap();
        Ok(files.iter().map(|file| (file.clone(), path.clone())).collect())
    }
}

#[async_trait]
impl Records for FakeNode {
    async fn save_sandbox(&self, record: &SandboxRecord) -> DriverResult<()> {
        self.state
            .lock()
            .unwrap()
            .sandboxes
            .insert(record.plan.id.clone(), record.clone());
        self.write_record()
    }

    async fn forget_sandbox(&self, id: &SandboxId) -> DriverResult<()> {
        self.state.lock().unwrap().sandboxes.remove(id);
        Ok(())
    }

    async fn save_container(&self, record: &ContainerRecord) -> DriverResult<()> {
        self.state
            .lock()
            .unwrap()
            .containers
            .insert(record.plan.id.clone(), record.clone());
        self.write_record()
    }

    async fn forget_container(&self, id: &ContainerId) -> DriverResult<()> {
        self.state.lock().unwrap().containers.remove(id);
        Ok(())
    }

    fn writable(&self) -> Result<(), String> {
        Ok(())
    }

    async fn load(&self) -> DriverResult<Loaded> {
        let state = self.state.lock().unwrap();
        Ok(Loaded {
            sandboxes: state.sandboxes.values().cloned().collect(),
            containers: state.containers.values().cloned().collect(),
            lost_sandboxes: Vec::new(),
            lost_containers: state.unreadable.iter().cloned().collect(),
        })
    }

    async fn set_aside_sandbox(&self, _: &SandboxId) -> DriverResult<()> {
        Ok(())
    }

    async fn set_aside_container(&self, id: &ContainerId) -> DriverResult<()> {
        self.state.lock().unwrap().unreadable.remove(id);
        Ok(())
    }
}
