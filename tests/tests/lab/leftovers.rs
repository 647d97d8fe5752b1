//! What a deployment leaves behind when it is dropped: nothing, at whatever moment.

use anyhow::{Result, ensure};
use moorline_client::fresh_key;
use moorline_lab::deployment::{Deployment, IMAGE, PATIENCE, Programs};
use moorline_lab::guest::seats;
use moorline_lab::image::Busybox;
use moorline_lab::{setup, wait};
use moorline_shared::api::instances::RunInstances;
use std::fs::DirEntry;
use std::path::Path;

/// How many processes of the two VMs there are, at least, when the deployment is dropped.
const MOMENTS: [usize; 4] = [0, 1, 2, 4];

/// What VMs consist of, beside the daemon: QEMU and its vsock device for each.
#[tokio::test]
async fn a_deployment_dropped_while_its_vms_begin_leaves_nothing() -> Result<()> {
    let tools = setup::ready().await?;
    let image = Busybox::new().build(tools).await?;
    let _seats = seats(2).await;
    for moment in MOMENTS {
        let deployment = Deployment::start(tools, Programs::build().await?, &image).await?;
        let folder = deployment.folder().to_owned();
        deployment.client().run_instances(&two(), &fresh_key()).await?;
        let there = async || (deployment.vm_processes().len() >= moment).then_some(());
        wait::until("the VMs' processes", PATIENCE, there).await?;
        drop(deployment);
        let running = running_in(&folder);
        ensure!(running.is_empty(), "dropped with {moment}: {running:#?}");
        ensure!(!folder.exists(), "dropped with {moment}: the folder is there");
    }
    Ok(())
}

fn two() -> RunInstances {
    RunInstances {
        count: 2,
        ..RunInstances::of(
            IMAGE.parse().expect("this is a name"),
            "micro".parse().expect("this is a name"),
        )
    }
}

/// The processes that have to do with a folder: by their environment, their arguments, or where they work.
pub(crate) fn running_in(folder: &Path) -> Vec<String> {
    let text = folder.display().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let told = |process: DirEntry| {
        let of = |file| std::fs::read(process.path().join(file)).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&of("cmdline")).replace('\0', " ");
        let environment = String::from_utf8_lossy(&of("environ")).into_owned();
        let works_in = std::fs::read_link(process.path().join("cwd")).unwrap_or_default();
        let found = arguments.contains(&text) || environment.contains(&text) || works_in.starts_with(folder);
        found.then(|| format!("{} {arguments}", process.file_name().display()))
    };
    processes.filter_map(told).collect()
}
