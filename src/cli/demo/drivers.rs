//! The five drivers: their packages, their jobs and what goes wrong with each.

use std::{
    io::{Cursor, Read},
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;
use url::Url;

use crate::{
    domain::ids::{AccountName, JobId, JobKey, Malformed, Sha256},
    package::{
        Error,
        cabinet::{self, NewFile},
    },
    sandbox::{Fault, FaultKind, Match, Params, Sandbox},
};

/// The account's name in the sandbox.
pub(super) const ACCOUNT: &str = "sandbox";

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nothing.
    Nothing,
    /// Its third call is answered 429.
    Throttled,
    /// Its product is made, and the answer is lost.
    AnswerLost,
    /// Its upload URL expires while blocks are sent.
    UrlExpires,
    /// The worker that uploads it gets SIGKILL.
    WorkerKilled,
}

impl Trouble {
    /// In words.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Throttled => "its third call is throttled",
            Self::AnswerLost => "the answer to \"create\" is lost",
            Self::UrlExpires => "its upload URL expires",
            Self::WorkerKilled => "its worker is killed",
        }
    }

    /// The fault's name in the sandbox's journal, for a trouble that the sandbox makes.
    pub(super) const fn fault(self) -> Option<&'static str> {
        match self {
            Self::Nothing | Self::WorkerKilled => None,
            Self::Throttled => Some("throttle"),
            Self::AnswerLost => Some("lost-answer"),
            Self::UrlExpires => Some("expired-sas"),
        }
    }
}

/// When a worker was killed, and how long its job had none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Killed {
    pub(super) holder: u128,
    pub(super) at: Instant,
    pub(super) taken_over: Option<Duration>,
}

/// One driver.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) name: &'static str,
    key: JobKey,
    pub(super) trouble: Trouble,
    /// Bytes of its binary, which cannot be packed any smaller.
    binary: u64,
    class: &'static str,
    /// Of its cabinet, once it is handed in.
    pub(super) sha256: Option<Sha256>,
    pub(super) killed: Option<Killed>,
}

/// The five.
pub(super) fn all() -> Result<Vec<Driver>, Malformed> {
    let account = AccountName::parse(ACCOUNT)?;
    let driver = |name, class, binary, trouble| {
        let key = JobKey { account: account.clone(), id: JobId::parse(&format!("demo-{name}"))? };
        Ok(Driver { name, key, trouble, binary, class, sha256: None, killed: None })
    };
    [
        driver("netcard", "Net", 300 << 10, Trouble::Nothing),
        driver("touchpad", "HIDClass", 120 << 10, Trouble::Throttled),
        driver("audio", "MEDIA", 200 << 10, Trouble::AnswerLost),
        driver("camera", "Camera", 8 << 20, Trouble::UrlExpires),
        driver("firmware", "Firmware", 500 << 10, Trouble::WorkerKilled),
    ]
    .into_iter()
    .collect()
}

impl Driver {
    /// Its job.
    pub(super) fn key(&self) -> JobKey {
        self.key.clone()
    }

    /// Sets its trouble up in the sandbox.
    pub(super) fn arm(&self, sandbox: &Sandbox) -> Result<(), String> {
        let matching = Match { correlation_id: Some(self.key().correlation_id().0.to_string()), ..Match::default() };
        let fault = |operation: &str, kind| Fault { matching: matching.clone(), ..Fault::next(operation, kind) };
        let seconds = |seconds| Params { seconds: Some(seconds), ..Params::default() };
        let fault = match self.trouble {
            Trouble::Nothing => return Ok(()),
            Trouble::Throttled => Fault { after: 2, params: seconds(2.0), ..fault("api", FaultKind::Throttle) },
            Trouble::AnswerLost => fault("createProduct", FaultKind::LostAnswer),
            Trouble::UrlExpires => Fault { after: 3, ..fault("putBlock", FaultKind::ExpiredSas) },
            // The upload is answered late, so that its worker can be killed in the middle of it.
            Trouble::WorkerKilled => Fault { params: seconds(1.0), ..fault("putBlob", FaultKind::Slow) },
        };
        sandbox.fault(fault).map(|_| ()).map_err(|error| error.to_string())
    }

    /// Builds its cabinet: an INF, a binary and a help text in a folder of its own.
    pub(super) fn build(&self, path: &Path) -> Result<(), Error> {
        let file = |name: &str, content: Box<dyn Read>| NewFile { path: format!("{0}/{name}", self.name), content };
        let binary = Cursor::new(*b"MZ").chain(Noise::of(self.name).take(self.binary));
        let files = vec![
            file(&format!("{}.inf", self.name), Box::new(Cursor::new(self.inf().into_bytes()))),
            file(&format!("{}.sys", self.name), Box::new(binary)),
            file("readme.txt", Box::new(Cursor::new(b"A driver of the demo; it drives nothing.\r\n".to_vec()))),
        ];
        cabinet::write(files, path)
    }

    fn inf(&self) -> String {
        let Self { name, class, .. } = self;
        [
            "[Version]",
            "Signature   = \"$WINDOWS NT$\"",
            &format!("Class       = {class}"),
            "ClassGuid   = {4d36e972-e325-11ce-bfc1-08002be10318}",
            "Provider    = %Provider%",
            &format!("CatalogFile = {name}.cat"),
            "DriverVer   = 11/21/2026,2.4.1.0",
            "PnpLockdown = 1",
            "",
            "[Manufacturer]",
            "%Provider% = Models,NTamd64",
            "",
            "[Models.NTamd64]",
            &format!("%Device% = Install, DEMO\\{name}"),
            "",
            "[Install]",
            "CopyFiles = Files",
            "",
            "[Files]",
            &format!("{name}.sys"),
            "",
            "[Strings]",
            "Provider = \"Contoso\"",
            &format!("Device   = \"Contoso {name}\""),
            "",
        ]
        .join("\r\n")
    }

    /// The job as a build system would write it.
    pub(super) fn job(&self, cabinet: &Path, out: &Path) -> Result<String, String> {
        let source = Url::from_file_path(cabinet).map_err(|()| format!("{} is no full path", cabinet.display()))?;
        let to = Url::from_directory_path(out).map_err(|()| format!("{} is no full path", out.display()))?;
        let job = json!({
            "id": self.key.id,
            "kind": "submission",
            "account": self.key.account,
            "labels": { "demo": self.trouble.words() },
            "deadline": "10m",
            "spec": {
                "package": { "source": source },
                "product": { "create": {
                    "productName": format!("Contoso {} 2.4.1", self.name),
                    "testHarness": "attestation",
                    "deviceType": "internalExternal",
                    "requestedSignatures": ["WINDOWS_v100_X64_GE_FULL"],
                } },
                "submission": { "create": { "name": format!("{} 2.4.1", self.name), "type": "initial" } },
                "download": { "to": to, "kinds": ["signedPackage"], "overwrite": true },
            },
        });
        Ok(job.to_string())
    }
}

/// Bytes without any order, the same for the same name.
struct Noise(u64);

impl Noise {
    fn of(name: &str) -> Self {
        let seed = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(seed | 1)
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        for chunk in buffer.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            for (to, from) in chunk.iter_mut().zip(self.0.to_le_bytes()) {
                *to = from;
            }
        }
        Ok(buffer.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::job::Job, package::preflight};

    #[test]
    fn every_driver_is_a_real_package_that_passes_preflight_and_its_job_is_one() {
        let folder = tempfile::tempdir().unwrap();
        for driver in all().unwrap() {
            let path = folder.path().join(format!("{}.cab", driver.name));
            driver.build(&path).unwrap();
            let report = preflight::check(&path, "attestation", &["WINDOWS_v100_X64_GE_FULL".to_owned()]).unwrap();
            assert_eq!(report.files, 3);
            assert!(report.bytes >= driver.binary, "{}: it must not pack any smaller", driver.name);
            let job = Job::decode(driver.job(&path, folder.path()).unwrap().as_bytes(), || None).unwrap();
            assert_eq!(job.key(), driver.key());
        }
    }
}
