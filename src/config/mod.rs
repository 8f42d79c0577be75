//! Settings: read from all layers, checked as a whole, every mistake told at once.
//!
//! `config/default.toml` documents each setting and is compiled in; above it lie the files of the search order, above
//! those the environment. Secrets are references ([`SecretReference`]), resolved when they are used. Who needs settings
//! takes the plain structs of [`waits`] by value; nothing in the core knows this module.

mod accounts;
mod checks;
mod fleet;
mod folders;
mod layer;
mod mistake;
mod nearest;
mod quantity;
mod read;
mod secret;
mod settings;
mod show;
pub mod waits;

use std::path::{Path, PathBuf};

pub use self::{
    accounts::{
        Account, AccountLimits, AccountMarkers, AccountRate, AssertionAlgorithm, Credential, Limits, Rate, TokenVersion,
    },
    fleet::{Fleet, HostPort, Prefix, RabbitMq, Redis, Servers, ServersError, Topology},
    folders::{FILE_NAME, Surroundings},
    layer::VARIABLE_PREFIX,
    mistake::{Mistake, Mistakes, Origin},
    nearest::nearest,
    quantity::{NotAQuantity, Size, Span},
    read::Described,
    secret::{SecretError, SecretProblem, SecretReference},
    settings::{
        BaseUrl, Endpoints, Home, HostPattern, LogFilter, LogFormat, Markers, Place, ProxyUrl, Raw, Security, Settings,
        Sinks, Sources, Telemetry, is_loopback,
    },
    show::{Shown, Value},
};
use self::{
    layer::{Layers, Origins},
    read::{Reader, Setting},
};

/// The one documented list of settings.
pub const DEFAULT: &str = include_str!("../../config/default.toml");

/// The overlay with the shortened waits, for demo, tests and benches.
pub const SANDBOX: &str = include_str!("../../config/sandbox.toml");

/// A configuration that was read, and where its values came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// The files that were read, in their order; later ones win.
    pub files: Vec<PathBuf>,
    table: toml::Table,
    origins: Origins,
    data_folder: PathBuf,
}

impl Loaded {
    /// The folder of the embedded home's file: `home.data_dir`, else the user's data folder.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.settings.home.data_dir.as_deref().unwrap_or(&self.data_folder)
    }

    /// Where the value of this key came from.
    #[must_use]
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.get(key)
    }
}

/// Reads the configuration of this process; `chosen` are the files of `--config`.
///
/// # Errors
/// [`Mistakes`] lists every one that was found.
pub fn load(chosen: &[PathBuf]) -> Result<Loaded, Mistakes> {
    load_in(&Surroundings::of_process(), chosen)
}

/// Reads the configuration as a process in these surroundings would.
///
/// # Errors
/// The same as [`load`].
pub fn load_in(surroundings: &Surroundings, chosen: &[PathBuf]) -> Result<Loaded, Mistakes> {
    let files = surroundings.files(chosen);
    let mut layers = Layers::default();
    layers.add_default(DEFAULT);
    for file in &files {
        layers.add_file(file, &surroundings.folder);
    }
    layers.add_variables(&surroundings.variables);
    let (settings, table, origins) = read(layers, &surroundings.folder)?;
    Ok(Loaded { settings, files, table, origins, data_folder: surroundings.data_folder() })
}

fn read(mut layers: Layers, folder: &Path) -> Result<(Settings, toml::Table, Origins), Mistakes> {
    let defaults = layers.lowest();
    let merged = layers.merge();
    let Layers { origins, mistakes, .. } = layers;
    let mut reader = Reader::new(&origins, folder, defaults);
    reader.mistakes = mistakes;
    let mut table = toml::Table::new();
    let settings = match merged {
        Ok(merged) => {
            let merged = config::Value::from(merged);
            if let Some(toml::Value::Table(raw)) = settings::raw(&merged) {
                table = raw;
            }
            Settings::read(&merged, "", &mut reader)
        }
        Err(error) => {
            reader.wrong("", format!("cannot be merged: {error}"));
            None
        }
    };
    if let Some(settings) = &settings {
        checks::check(settings, &mut reader);
    }
    let mut list = reader.mistakes;
    list.sort_by(|a, b| (&a.origin, &a.key).cmp(&(&b.origin, &b.key)));
    match settings {
        Some(settings) if list.is_empty() => Ok((settings, table, origins)),
        Some(_) | None => Err(Mistakes { list }),
    }
}

/// Every setting with its range, for documents and completions. Account settings stand below `accounts.*`.
#[must_use]
pub fn described() -> Vec<Described> {
    let mut list = Vec::new();
    Settings::describe("", &mut list);
    list
}

#[cfg(test)]
pub(crate) fn defaults() -> Settings {
    load_in(&Surroundings::default(), &[]).unwrap().settings
}

#[cfg(test)]
mod reach;
#[cfg(test)]
mod tests;
