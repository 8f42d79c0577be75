//! A whole job through the real program, with every log line there is: what may not be written anywhere is registered
//! here and searched for at the end of the run.

use std::{
    fs,
    io::{Cursor, Read},
    time::Duration,
};

use longshore::{
    clock, config,
    package::cabinet::{self, NewFile},
    sandbox::{Account, Fault, FaultKind, Options, Params, Sandbox},
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use url::Url;

use super::{run_folder, search::Needles};

const INF: &str = "[Version]\r\nSignature = \"$WINDOWS NT$\"\r\nClass = Net\r\n\
    ClassGuid = {4d36e972-e325-11ce-bfc1-08002be10318}\r\nProvider = %Provider%\r\nCatalogFile = nic.cat\r\n\
    DriverVer = 11/21/2026,1.0.0.0\r\nPnpLockdown = 1\r\n\r\n[Manufacturer]\r\n%Provider% = Models,NTamd64\r\n\r\n\
    [Models.NTamd64]\r\n%Device% = Install, TEST\\nic\r\n\r\n[Install]\r\nCopyFiles = Files\r\n\r\n[Files]\r\nnic.sys\r\n\r\n\
    [Strings]\r\nProvider = \"Contoso\"\r\nDevice = \"Contoso nic\"\r\n";

/// With characters that have to be encoded in a form, so that every form of it can be told apart.
fn secret() -> String {
    let id = clock::uuid_v4().simple().to_string();
    format!("{}~+/=&%{}", &id[..16], &id[16..])
}

#[tokio::test]
async fn a_job_from_file_to_signed_package_leaves_no_secret_in_home_logs_or_output() {
    let root = run_folder::folder("secrets").unwrap();
    let secret = secret();
    let secret_file = root.join("secret");
    fs::write(&secret_file, &secret).unwrap();
    run_folder::register_secret(secret.as_bytes()).unwrap();
    run_folder::by_design(&secret_file).unwrap();
    let mut account =
        Account::new("contoso", "11111111-2222-4333-8444-555555555555", "66666666-7777-4888-8999-aaaaaaaaaaaa")
            .with_secret(&secret);
    account.secret_reference = Some(format!("file:{}", secret_file.display()));
    let options = Options {
        data_dir: Some(root.join("sandbox")),
        step_duration: Duration::from_millis(100),
        accounts: vec![account],
        ..Options::default()
    };
    let sandbox = Sandbox::start(options).await.unwrap();
    // What went wrong is told at length, and that is where secrets get out.
    for (operation, kind, after) in [
        ("api", FaultKind::TokenExpiry, 2),
        ("api", FaultKind::LostAnswer, 4),
        ("token", FaultKind::Gateway500, 0),
        ("blob", FaultKind::Gateway500, 1),
        ("putBlock", FaultKind::ExpiredSas, 2),
        ("downloadBlob", FaultKind::Status, 0),
    ] {
        let params = Params { status: Some(if operation == "downloadBlob" { 403 } else { 500 }), ..Params::default() };
        sandbox.fault(Fault { after, params, ..Fault::next(operation, kind) }).unwrap();
    }
    let job = root.join("job.json");
    fs::write(&job, submission(&root).to_string()).unwrap();
    let output = longshore(&root, &sandbox).arg("submit").arg("--wait").arg(&job).output().await.unwrap();
    fs::write(root.join("stdout"), &output.stdout).unwrap();
    fs::write(root.join("stderr"), &output.stderr).unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {told}", output.status);
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["state"], "completed", "{result}");

    let handed_out: Vec<Vec<u8>> =
        sandbox.handed_out().iter().map(|signature| signature.expose_secret().as_bytes().to_vec()).collect();
    assert!(handed_out.len() > 4, "two tokens and some upload URLs at least: {}", handed_out.len());
    for signature in &handed_out {
        run_folder::register_secret(signature).unwrap();
    }
    run_folder::register_home(&root.join("home")).unwrap();
    assert!(told.contains("DEBUG") || told.contains("debug"), "the log is as long as it can be: {told}");
    // Here as well, so that a leak is shown where it was made.
    let needles = Needles::of(handed_out.iter().chain([&secret.into_bytes()]));
    assert!(needles.find(&output.stderr).is_empty() && needles.find(&output.stdout).is_empty());
    sandbox.stop().await;
}

fn submission(root: &std::path::Path) -> Value {
    let cabinet = root.join("nic.cab");
    let noise: Vec<u8> = (0..40_000).flat_map(|_| clock::random_bytes::<16>()).collect();
    let file = |name: &str, bytes: Vec<u8>| {
        let content: Box<dyn Read> = Box::new(Cursor::new(bytes));
        NewFile { path: format!("nic/{name}"), content }
    };
    cabinet::write(vec![file("nic.inf", INF.into()), file("nic.sys", noise)], &cabinet).unwrap();
    fs::create_dir(root.join("signed")).unwrap();
    json!({
        "id": "nic", "kind": "submission", "account": "contoso", "deadline": "5m",
        "spec": {
            "package": { "source": Url::from_file_path(cabinet).unwrap() },
            "product": { "create": {
                "productName": "Contoso nic", "testHarness": "attestation", "deviceType": "internalExternal",
                "requestedSignatures": ["WINDOWS_v100_X64_GE_FULL"],
            } },
            "submission": { "create": { "name": "nic", "type": "initial" } },
            "download": { "to": Url::from_directory_path(root.join("signed")).unwrap(), "kinds": ["signedPackage"] },
        },
    })
}

/// The program, with a configuration of its own and the longest log there is.
fn longshore(root: &std::path::Path, sandbox: &Sandbox) -> tokio::process::Command {
    let own = format!(
        "{}\n[home]\ndata_dir = \"home\"\n[telemetry]\nlog = \"trace\"\nformat = \"json\"\n\
         [transfer]\nsingle_shot = \"64KiB\"\nblock_size = \"64KiB\"\n",
        sandbox.overlay()
    );
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_longshore"));
    for (name, text) in [("sandbox.toml", config::SANDBOX), ("own.toml", own.as_str())] {
        fs::write(root.join(name), text).unwrap();
        command.arg("--config").arg(root.join(name));
    }
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LONGSHORE")) {
        command.env_remove(name);
    }
    command.kill_on_drop(true);
    command
}
