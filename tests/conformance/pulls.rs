//! Images: what a pull leaves, by which names it is found, and what a removal takes. One at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cri::v1::*;

use crate::case::Case;
use crate::images::{PAUSE, TAGS, USERS, plain};

crate::specs!(
    img_01, img_02, img_03, img_04, img_05, img_06, img_07, img_08, img_09, img_10, imgc_01, imgc_02, imgc_03,
    imgid_01, imgid_02,
);

/// Removes an image by its id where it is there.
async fn absent(case: &Case<'_>, name: &str) -> anyhow::Result<()> {
    if let Some(image) = case.client.image(name).await? {
        case.client.remove_image(&image.id).await?;
    }
    Ok(())
}

async fn found(case: &Case<'_>, name: &str) -> anyhow::Result<Image> {
    let image = case
        .client
        .image(name)
        .await?
        .with_context(|| format!("{name} is not there"))?;
    ensure!(!image.id.is_empty() && image.size > 0, "{image:?}");
    Ok(image)
}

/// Pulls what was not there and looks at it; then removes it.
async fn pulled(case: &Case<'_>, name: &str, look: impl FnOnce(&Image) -> anyhow::Result<()>) -> anyhow::Result<()> {
    absent(case, name).await?;
    case.client.pull(name).await?;
    let image = found(case, name).await?;
    look(&image)?;
    case.client.remove_image(&image.id).await?;
    ensure!(case.client.image(name).await?.is_none(), "{name} is still there");
    Ok(())
}

async fn img_01(case: &Case<'_>) -> anyhow::Result<()> {
    let name = plain("tag:test");
    pulled(case, &name, |image| {
        ensure!(image.repo_tags == [name.as_str()], "{image:?}");
        Ok(())
    })
    .await
}

/// A client without patience is told so.
async fn img_02(case: &Case<'_>) -> anyhow::Result<()> {
    let name = plain("1:latest");
    absent(case, &name).await?;
    let mut request = tonic::Request::new(PullImageRequest {
        image: Some(e2e::client::image_spec(&name)),
        ..Default::default()
    });
    request.set_timeout(Duration::from_millis(1));
    let answer = case.client.images.clone().pull_image(request).await;
    let code = answer.err().context("a pull within a millisecond")?.code();
    // The client of this test gives up by itself, and calls it so.
    ensure!(
        matches!(code, tonic::Code::DeadlineExceeded | tonic::Code::Cancelled),
        "{code}"
    );
    Ok(())
}

async fn img_03(case: &Case<'_>) -> anyhow::Result<()> {
    let full = plain("latest:latest");
    pulled(case, &plain("latest"), |image| {
        ensure!(image.repo_tags == [full.as_str()], "{image:?}");
        Ok(())
    })
    .await
}

async fn img_04(case: &Case<'_>) -> anyhow::Result<()> {
    pulled(case, case.by_digest, |image| {
        ensure!(image.repo_tags.is_empty(), "{image:?}");
        ensure!(image.repo_digests == [case.by_digest], "{image:?}");
        Ok(())
    })
    .await
}

/// Every name of an image gives the same answer.
async fn img_05(case: &Case<'_>) -> anyhow::Result<()> {
    let name = plain("tag:all");
    absent(case, &name).await?;
    case.client.pull(&name).await?;
    let image = found(case, &name).await?;
    for other in [&image.id]
        .into_iter()
        .chain(&image.repo_tags)
        .chain(&image.repo_digests)
    {
        ensure!(found(case, other).await? == image, "{other} is another image");
    }
    Ok(case.client.remove_image(&image.id).await?)
}

async fn img_06(case: &Case<'_>) -> anyhow::Result<()> {
    for (name, _, uid, username) in USERS {
        pulled(case, name, |image| {
            ensure!(
                image.uid.map(|uid| uid.value) == uid && image.username == username,
                "{image:?}"
            );
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn listed(case: &Case<'_>, id: &str) -> anyhow::Result<Option<Image>> {
    Ok(case
        .client
        .list_images()
        .await?
        .into_iter()
        .find(|image| image.id == id))
}

async fn img_07(case: &Case<'_>) -> anyhow::Result<()> {
    let names = ["1:latest", "2:latest", "3:latest"].map(plain);
    let mut pulled = Vec::new();
    for name in &names {
        absent(case, name).await?;
        pulled.push(case.client.pull(name).await?);
    }
    for (name, id) in names.iter().zip(&pulled) {
        let image = listed(case, id).await?.with_context(|| format!("{id} is not listed"))?;
        ensure!(image.repo_tags == [name.as_str()], "{image:?}");
        case.client.remove_image(id).await?;
    }
    Ok(())
}

/// Pulls several names of one image; gives its id.
async fn one_of_many(case: &Case<'_>, names: &[&str]) -> anyhow::Result<String> {
    let mut ids = BTreeSet::new();
    for name in names {
        absent(case, name).await?;
    }
    for name in names {
        ids.insert(case.client.pull(name).await?);
    }
    ensure!(ids.len() == 1, "one image has several ids: {ids:?}");
    let id = ids.pop_first().context("no name at all")?;
    let image = listed(case, &id)
        .await?
        .with_context(|| format!("{id} is not listed"))?;
    let tags: BTreeSet<&str> = image.repo_tags.iter().map(String::as_str).collect();
    ensure!(
        tags == names.iter().copied().collect() && image.repo_tags.len() == names.len(),
        "{image:?}"
    );
    Ok(id)
}

async fn gone(case: &Case<'_>, names: &[&str]) -> anyhow::Result<()> {
    for name in names {
        ensure!(case.client.image(name).await?.is_none(), "{name} is still there");
    }
    Ok(())
}

async fn img_08(case: &Case<'_>) -> anyhow::Result<()> {
    let id = one_of_many(case, &TAGS).await?;
    Ok(case.client.remove_image(&id).await?)
}

async fn img_09(case: &Case<'_>) -> anyhow::Result<()> {
    let id = one_of_many(case, &TAGS).await?;
    let by_name = found(case, TAGS[0]).await?;
    case.client.remove_image(&by_name.id).await?;
    gone(case, &TAGS).await?;
    gone(case, &[&id]).await?;
    // The users of crictl say a name and mean the same.
    one_of_many(case, &TAGS).await?;
    case.client.remove_image(TAGS[1]).await?;
    gone(case, &TAGS).await
}

async fn img_10(case: &Case<'_>) -> anyhow::Result<()> {
    let id = one_of_many(case, &PAUSE).await?;
    case.client.remove_image(&id).await?;
    gone(case, &PAUSE).await
}

async fn imgc_01(case: &Case<'_>) -> anyhow::Result<()> {
    let name = plain("1:latest");
    let id = case.client.pull(&name).await?;
    case.client.remove_image(&id).await?;
    ensure!(listed(case, &id).await?.is_none());
    gone(case, &[&name, &id]).await
}

async fn imgc_02(case: &Case<'_>) -> anyhow::Result<()> {
    let name = plain("1:latest");
    absent(case, &name).await?;
    let id = case.client.pull(&name).await?;
    ensure!(listed(case, &id).await?.is_some());
    found(case, &name).await?;
    Ok(case.client.remove_image(&id).await?)
}

/// Whoever removes what is being removed hears of it when it is gone.
async fn imgc_03(case: &Case<'_>) -> anyhow::Result<()> {
    let name = plain("1:latest");
    let id = case.client.pull(&name).await?;
    let removals = (0..5).map(async |_| {
        case.client.remove_image(&id).await?;
        ensure!(
            case.client.image(&id).await?.is_none(),
            "it is still there after a removal"
        );
        anyhow::Ok(())
    });
    futures::future::try_join_all(removals).await?;
    Ok(())
}

/// An image has one id, in every answer.
async fn one_id(case: &Case<'_>, pulled: &str, name: &str) -> anyhow::Result<()> {
    ensure!(found(case, name).await?.id == pulled);
    let pod = case.default_pod().await?;
    let mut config = case.of_image(pulled);
    config.image.get_or_insert_default().user_specified_image = name.to_owned();
    let id = case.create(&pod, &config).await?;
    case.client.start(&id).await?;
    let status = case.client.status(&id).await?;
    ensure!(status.image_id == pulled && !status.image_ref.is_empty(), "{status:?}");
    let container = case
        .client
        .containers(None)
        .await?
        .into_iter()
        .find(|container| container.id == id);
    ensure!(container.context("it is not listed")?.image_id == pulled);
    case.clean_up().await?;
    Ok(case.client.remove_image(pulled).await?)
}

async fn imgid_01(case: &Case<'_>) -> anyhow::Result<()> {
    let name = plain("1:latest");
    absent(case, &name).await?;
    let pulled = case.client.pull(&name).await?;
    one_id(case, &pulled, &name).await
}

async fn imgid_02(case: &Case<'_>) -> anyhow::Result<()> {
    let pulled = one_of_many(case, &PAUSE).await?;
    one_id(case, &pulled, PAUSE[1]).await
}
