//! Where settings and data lie on each system: the one module that knows these folders.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The name of a configuration file in every folder of the search order.
pub const FILE_NAME: &str = "longshore.toml";

/// What the process was started with, as far as settings depend on it.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Environment variables, those that are Unicode.
    pub variables: BTreeMap<String, String>,
    /// The working folder.
    pub folder: PathBuf,
}

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let unicode = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            variables: std::env::vars_os().filter_map(unicode).collect(),
            folder: std::env::current_dir().unwrap_or_default(),
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn absolute(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// The user's configuration file: in `$XDG_CONFIG_HOME/longshore` or `~/.config/longshore`, on Windows in
    /// `%APPDATA%\longshore`.
    #[must_use]
    pub fn user_file(&self) -> Option<PathBuf> {
        let base = if cfg!(windows) {
            self.absolute("APPDATA")
        } else {
            self.absolute("XDG_CONFIG_HOME").or_else(|| self.absolute("HOME").map(|home| home.join(".config")))
        };
        base.map(|base| base.join("longshore").join(FILE_NAME))
    }

    /// The system's configuration file: `/etc/longshore/longshore.toml`, on Windows in `%PROGRAMDATA%\longshore`.
    #[must_use]
    pub fn system_file(&self) -> Option<PathBuf> {
        let base = if cfg!(windows) { self.absolute("PROGRAMDATA") } else { Some(Path::new("/etc").to_owned()) };
        base.map(|base| base.join("longshore").join(FILE_NAME))
    }

    /// Where data lies when no setting says: `$XDG_DATA_HOME/longshore` or `~/.local/share/longshore`, on Windows
    /// `%LOCALAPPDATA%\longshore`; `.longshore` in the working folder for a user without any.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        let base = if cfg!(windows) {
            self.absolute("LOCALAPPDATA")
        } else {
            self.absolute("XDG_DATA_HOME")
                .or_else(|| self.absolute("HOME").map(|home| home.join(".local").join("share")))
        };
        base.map_or_else(|| self.folder.join(".longshore"), |base| base.join("longshore"))
    }

    /// The files to read: those of `--config`, else of `LONGSHORE_CONFIG` (several are joined as in `PATH`), else the
    /// first that exists of the working folder, the user's and the system's.
    #[must_use]
    pub fn files(&self, chosen: &[PathBuf]) -> Vec<PathBuf> {
        if !chosen.is_empty() {
            return chosen.to_vec();
        }
        if let Some(named) = self.variable("LONGSHORE_CONFIG") {
            return std::env::split_paths(named).filter(|path| !path.as_os_str().is_empty()).collect();
        }
        [Some(PathBuf::from(FILE_NAME)), self.user_file(), self.system_file()]
            .into_iter()
            .flatten()
            .find(|path| self.folder.join(path).is_file())
            .into_iter()
            .collect()
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;

    use super::*;

    fn surroundings(folder: &Path, variables: &[(&str, &str)]) -> Surroundings {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Surroundings { variables, folder: folder.to_owned() }
    }

    #[test]
    fn the_first_place_of_the_search_order_that_names_a_file_wins() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config");
        let base = [("XDG_CONFIG_HOME", config.to_str().unwrap())];
        fs::create_dir_all(config.join("longshore")).unwrap();
        let user = config.join("longshore").join(FILE_NAME);
        fs::write(&user, "").unwrap();
        assert_eq!(surroundings(folder.path(), &base).files(&[]), [user]);
        fs::write(folder.path().join(FILE_NAME), "").unwrap();
        assert_eq!(surroundings(folder.path(), &base).files(&[]), [PathBuf::from(FILE_NAME)]);
        let named = surroundings(folder.path(), &[("LONGSHORE_CONFIG", "/a.toml:/b.toml")]);
        assert_eq!(named.files(&[]), [PathBuf::from("/a.toml"), PathBuf::from("/b.toml")]);
        assert_eq!(named.files(&["c.toml".into()]), [PathBuf::from("c.toml")]);
    }

    #[test]
    fn data_lies_in_the_users_folder() {
        let none = Path::new("/w");
        assert_eq!(surroundings(none, &[("XDG_DATA_HOME", "/d")]).data_folder(), Path::new("/d/longshore"));
        assert_eq!(surroundings(none, &[("HOME", "/h")]).data_folder(), Path::new("/h/.local/share/longshore"));
        assert_eq!(surroundings(none, &[("HOME", "relative")]).data_folder(), Path::new("/w/.longshore"));
    }
}
