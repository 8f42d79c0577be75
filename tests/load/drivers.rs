//! The packages and their jobs: most go up in one request, every tenth in several blocks.

use std::{
    io::{Cursor, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use longshore::{
    domain::ids::{AccountName, JobId, JobKey, Sha256},
    package::cabinet::{self, NewFile},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use url::Url;

/// The account's name in the sandbox.
pub(crate) const ACCOUNT: &str = "sandbox";

/// One driver: its package on disk and its job.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) key: JobKey,
    pub(crate) cabinet: PathBuf,
    pub(crate) sha256: Sha256,
    /// One line of NDJSON.
    pub(crate) job: String,
}

/// Builds driver number `n`.
pub(crate) fn build(n: usize, seed: u64, cabinets: &Path, signed: &Path) -> Result<Driver> {
    let name = format!("load-{n:03}");
    let key = JobKey { account: AccountName::parse(ACCOUNT)?, id: JobId::parse(&name)? };
    let path = cabinets.join(format!("{name}.cab"));
    let kib = if n.is_multiple_of(10) { 900 } else { 20 + n };
    let mut binary = vec![0; kib << 10];
    StdRng::seed_from_u64(seed ^ u64::try_from(n)?).fill_bytes(&mut binary);
    let file = |end: &str, content: Vec<u8>| {
        let content: Box<dyn Read> = Box::new(Cursor::new(content));
        NewFile { path: format!("{name}/{name}.{end}"), content }
    };
    cabinet::write(vec![file("inf", inf(&name).into_bytes()), file("sys", binary)], &path)?;
    let sha256 = Sha256::of(&std::fs::read(&path)?);
    let full = |path: &Path| anyhow!("{} is no full path", path.display());
    let source = Url::from_file_path(&path).map_err(|()| full(&path))?;
    let to = Url::from_directory_path(signed).map_err(|()| full(signed))?;
    let job = json!({
        "id": key.id,
        "kind": "submission",
        "account": key.account,
        "deadline": "30m",
        "spec": {
            "package": { "source": source },
            "product": { "create": {
                "productName": format!("Contoso {name}"),
                "testHarness": "attestation",
                "deviceType": "internalExternal",
                "requestedSignatures": ["WINDOWS_v100_X64_GE_FULL"],
            } },
            "submission": { "create": { "name": name, "type": "initial" } },
            "download": { "to": to, "kinds": ["signedPackage"], "overwrite": true },
        },
    });
    Ok(Driver { key, cabinet: path, sha256, job: serde_json::to_string(&job).context("a job")? })
}

fn inf(name: &str) -> String {
    let text = format!(
        "[Version]\nSignature = \"$WINDOWS NT$\"\nClass = Net\nClassGuid = {{4d36e972-e325-11ce-bfc1-08002be10318}}\n\
         Provider = %Provider%\nCatalogFile = {name}.cat\nDriverVer = 11/21/2026,1.0.0.0\nPnpLockdown = 1\n\n\
         [Manufacturer]\n%Provider% = Models,NTamd64\n\n[Models.NTamd64]\n%Device% = Install, LOAD\\{name}\n\n\
         [Install]\nCopyFiles = Files\n\n[Files]\n{name}.sys\n\n\
         [Strings]\nProvider = \"Contoso\"\nDevice = \"Contoso {name}\"\n"
    );
    text.replace('\n', "\r\n")
}
