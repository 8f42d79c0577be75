//! `make bench-transfer`: a sparse file of 1 GiB to the sandbox and to Azurite, interrupted twice, and the same file by
//! `azcopy` to the same Azurite.
//!
//! Every upload is a process of its own (this very program, told its part by a variable), so that the memory it held at
//! most is its own. An interruption is what a worker does when its time is up: it stops at a block border, and another
//! process begins anew with nothing but the file and the URL. Prints figures; fails only when bytes were lost or sent
//! again. `AZURITE` and `AZCOPY` name the two programs; where they are absent that part is skipped, with the reason.

mod azurite;
mod slot;
mod uploader;

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use longshore::clock;
use tokio::process::Command;

use self::uploader::{Part, Sent};

const SIZE: u64 = 1 << 30;
const MEMORY_GOAL_MIB: f64 = 64.0;

fn main() -> Result<()> {
    if let Some(part) = Part::of_this_process()? {
        return uploader::run(&part);
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let package = folder.path().join("package.bin");
    File::create(&package)?.set_len(SIZE)?;

    let slot = slot::Slot::open(folder.path()).await?;
    let three = interrupted(&package, slot.url()).await?;
    show("sandbox, interrupted twice", &three);
    slot.close(&three).await?;

    let Some(azurite) = azurite::Azurite::start(folder.path()).await? else { return Ok(()) };
    let three = interrupted(&package, &azurite.url("interrupted.bin")?).await?;
    show("Azurite, interrupted twice", &three);
    let whole = [upload(&package, &azurite.url("whole.bin")?, u64::MAX).await?];
    show("Azurite, in one go", &whole);
    if let Some(theirs) = azcopy(&package, &azurite.url("azcopy.bin")?, folder.path()).await? {
        let ours: f64 = whole.iter().map(|sent| sent.seconds).sum();
        println!("azcopy, in one go            {:>6.1} s  {}", theirs.as_secs_f64(), rate(theirs.as_secs_f64()));
        println!(
            "ratio                        {:>6.2}   (our time, hashing of the file included, to that of azcopy)",
            ours / theirs.as_secs_f64()
        );
    }
    azurite.stop().await
}

/// Three processes: the first stops after a third, the second after two thirds, the last one ends it.
async fn interrupted(package: &Path, url: &str) -> Result<Vec<Sent>> {
    let mut parts = Vec::new();
    for stop_at in [SIZE / 3, SIZE / 3 * 2, u64::MAX] {
        parts.push(upload(package, url, stop_at).await?);
    }
    let interruptions = parts.iter().filter(|part| !part.is_done).count();
    ensure!(interruptions == 2, "it was interrupted {interruptions} times, not twice");
    let sent: u64 = parts.iter().map(|part| part.bytes).sum();
    ensure!(sent == SIZE, "{sent} bytes were sent for {SIZE}: finished blocks were sent again, or are missing");
    Ok(parts)
}

async fn upload(package: &Path, url: &str, stop_at: u64) -> Result<Sent> {
    let part = Part { package: package.to_owned(), url: url.to_owned(), stop_at };
    let mut command = Command::new(std::env::current_exe()?);
    part.tell(&mut command)?;
    let output = command.stderr(Stdio::inherit()).kill_on_drop(true).output().await?;
    ensure!(output.status.success(), "the upload ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("the uploading process said nothing")
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn rate(seconds: f64) -> String {
    format!("{:>6.0} MiB/s", SIZE as f64 / 1024.0 / 1024.0 / seconds)
}

fn show(what: &str, parts: &[Sent]) {
    let seconds: f64 = parts.iter().map(|part| part.seconds).sum();
    let above = parts.iter().map(|part| part.peak_mib - part.idle_mib).fold(0.0, f64::max);
    let idle = parts.iter().map(|part| part.idle_mib).fold(0.0, f64::max);
    let sent: Vec<String> = parts.iter().map(|part| format!("{} MiB", part.bytes >> 20)).collect();
    println!(
        "{what:<28} {seconds:>6.1} s  {}  sent {}  memory {above:.1} MiB above idle ({idle:.1} MiB), goal {MEMORY_GOAL_MIB:.0}",
        rate(seconds),
        sent.join(" + "),
    );
}

/// The program that `name` points at, if it is there.
fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_file());
    if path.is_none() {
        println!("skipped: {name} names no file; `make bench-transfer` installs it where npm is");
    }
    path
}

async fn azcopy(package: &Path, url: &str, folder: &Path) -> Result<Option<Duration>> {
    let Some(program) = tool("AZCOPY") else { return Ok(None) };
    let version = Command::new(&program).arg("--version").output().await.context("azcopy cannot be started")?;
    if !version.status.success() {
        println!("skipped: azcopy does not start: {}", String::from_utf8_lossy(&version.stderr).trim());
        return Ok(None);
    }
    println!("{}", String::from_utf8_lossy(&version.stdout).trim());
    let begun = clock::monotonic();
    let output = Command::new(program)
        .arg("copy")
        .arg(package)
        .arg(url)
        .args(["--from-to", "LocalBlob", "--block-size-mb", "4", "--output-level", "essential"])
        .env("AZCOPY_LOG_LOCATION", folder)
        .env("AZCOPY_JOB_PLAN_LOCATION", folder)
        .env("AZCOPY_DISABLE_SYSLOG", "true")
        .kill_on_drop(true)
        .output()
        .await
        .context("azcopy cannot be started")?;
    if !output.status.success() {
        bail!("azcopy: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    Ok(Some(begun.elapsed()))
}
