//! `longshore sign`: packages in, signed packages out, without writing a job.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;
use url::Url;

use super::{
    arguments::OfAccount,
    context::Context,
    intake::{self, Text},
    output::Problem,
    preflight,
    stop::{Outcome, Stop},
    submit::{self, Wishes},
};
use crate::{
    app::Parts,
    clock,
    domain::{
        ids::{AccountName, Sha256},
        job::{Deadline, PackageSpec},
    },
};

/// Has packages signed, a product each, and waits for the signed packages.
///
/// The job's id is made from account, product name, OS codes and package: typed again it goes on where it was, or prints
/// the result. --new makes another product.
///
/// Example: longshore sign build/nic.cab --product-name "Contoso NIC 2.4.1" --os WINDOWS_v100_X64_GE_FULL
#[expect(clippy::doc_markdown, reason = "the text is printed as it stands; a code in backticks could not be pasted")]
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Cabinets, .hlkx or .hckx files
    #[arg(required = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files: Vec<PathBuf>,
    /// The product's name; {file} stands for the file's name without its end
    #[arg(long, value_name = "NAME", default_value = "{file}")]
    product_name: String,
    /// An operating-system code to sign for; may be repeated
    #[arg(long = "os", value_name = "CODE", required = true)]
    os: Vec<String>,
    #[command(flatten)]
    account: OfAccount,
    /// Test harness: attestation, hlk or hck; from the file's name when it is left out
    #[arg(long, value_name = "HARNESS")]
    harness: Option<String>,
    /// Where the device sits: internal, external or internalExternal
    #[arg(long, value_name = "TYPE", default_value = "internalExternal")]
    device_type: String,
    /// Where the signed packages go
    #[arg(long, value_name = "FOLDER", default_value = "signed", value_hint = clap::ValueHint::DirPath)]
    out: PathBuf,
    /// How long it may take
    #[arg(long, value_name = "TIME", value_parser = deadline)]
    deadline: Option<String>,
    /// Make another job of the same content
    #[arg(long)]
    new: bool,
    /// Hand the jobs in and leave them to a worker
    #[arg(long)]
    no_wait: bool,
}

fn deadline(text: &str) -> Result<String, String> {
    text.parse::<Deadline>().map(|_| text.to_owned())
}

pub(super) async fn run(context: &mut Context, arguments: Arguments) -> Outcome {
    let home = context.reach()?;
    let app = home.parts();
    let account = arguments.account.of(&app.loaded)?;
    let mut names = BTreeSet::new();
    let mut jobs = Vec::new();
    for file in &arguments.files {
        let name = arguments.product_name.replace("{file}", &stem(file));
        if !names.insert(name.clone()) {
            let problem = Problem::new(format!("two packages would be product {name:?}"))
                .what("each package makes a product of its own")
                .next("put {file} into --product-name, or sign them one after the other");
            return Err(Stop::input(problem));
        }
        let text = job(app, &account, &arguments, file, &name).await?;
        jobs.push(intake::decode(app, &text, arguments.new));
    }
    let wishes = Wishes { wait: !arguments.no_wait, retries: false, is_dry: false };
    submit::to(context, &home, jobs, wishes).await
}

fn stem(file: &Path) -> String {
    file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The job that a person would write for this package.
async fn job(
    app: &Parts,
    account: &AccountName,
    arguments: &Arguments,
    file: &Path,
    product_name: &str,
) -> Result<Text, Stop> {
    let place = file.display().to_string();
    let absolute = std::path::absolute(file).map_err(|error| Stop::local(format!("{place}: {error}")))?;
    let out = std::path::absolute(&arguments.out)
        .map_err(|error| Stop::local(format!("{}: {error}", arguments.out.display())))?;
    let no_url = |path: &Path| Stop::input(Problem::new(format!("{} is no path of a file", path.display())));
    let source = Url::from_file_path(&absolute).map_err(|()| no_url(&absolute))?;
    let to = Url::from_directory_path(&out).map_err(|()| no_url(&out))?;
    let package = PackageSpec { source: source.to_string(), sha256: None, preflight: true, credential: None };
    let facts = app.packages.measure(&package).await?;
    let harness = arguments.harness.clone().unwrap_or_else(|| preflight::harness_of(file).to_owned());
    let mut codes = arguments.os.clone();
    codes.sort();
    codes.dedup();
    let id = if arguments.new {
        clock::uuid_v7().to_string()
    } else {
        let content = json!([account, product_name, codes, facts.sha256]);
        format!("sign-{}", Sha256::of(content.to_string().as_bytes()).to_string().chars().take(24).collect::<String>())
    };
    let mut job = json!({
        "id": id,
        "kind": "submission",
        "account": account,
        "spec": {
            "package": { "source": source, "sha256": facts.sha256 },
            "product": { "create": {
                "productName": product_name,
                "testHarness": harness,
                "deviceType": arguments.device_type,
                "requestedSignatures": codes,
            } },
            "submission": { "create": { "name": product_name, "type": "initial" } },
            "download": { "to": to, "kinds": ["signedPackage"] },
        },
    });
    if let (Some(deadline), Some(members)) = (&arguments.deadline, job.as_object_mut()) {
        members.insert("deadline".to_owned(), json!(deadline));
    }
    Ok(Text { place, bytes: job.to_string().into_bytes() })
}
