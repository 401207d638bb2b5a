//! The data directory of `dev`: one process at a time, secrets for its owner only.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::process;

/// What can't be done with a data directory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process uses it.
    #[error("another `hookwire dev` uses {0}; stop that one, or choose another directory with --data-dir")]
    Locked(PathBuf),
    /// A file or directory can't be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not what this version writes.
    #[error("{path} can't be read ({detail}); delete it, and it is made again")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Why.
        detail: String,
    },
}

/// A data directory, locked while this is there.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes the directory if it is not there, and locks it.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |path: &Path| failed(path.to_owned());
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))?;
        let path = path.canonicalize().map_err(failed(path))?;
        let lock = path.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&lock).map_err(failed(&lock))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, _lock: file }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked(path)),
            Err(TryLockError::Error(source)) => Err(Error::Io { path: lock, source }),
        }
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The text of a file; `None` if there is no such file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(&self, name: &str) -> Result<Option<String>, Error> {
        let path = self.file(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Io { path, source }),
        }
    }

    /// What a file says in JSON; `None` if there is no such file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`].
    pub fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.read(name)? else { return Ok(None) };
        let malformed =
            |error: serde_json::Error| Error::Malformed { path: self.file(name), detail: error.to_string() };
        serde_json::from_str(&text).map(Some).map_err(malformed)
    }

    /// Writes a file that only its owner may read: whole, or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.file(name);
        process::write_private(&path, text).map_err(failed(path))
    }

    /// The same, as JSON.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), Error> {
        let json = serde_json::to_string_pretty(value).map_err(|error| failed(self.file(name))(error.into()))?;
        self.write(name, &format!("{json}\n"))
    }

    /// Deletes a file, if it is there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Io { path, source }),
            _ => Ok(()),
        }
    }
}

fn failed(path: PathBuf) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_second_process_is_told_of_the_first() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let path = parent.path().join("a/b");
        let first = Directory::open(&path).expect("a new directory");
        let error = Directory::open(&path).expect_err("in use");
        assert!(matches!(error, Error::Locked(_)) && error.to_string().contains("--data-dir"), "{error}");
        drop(first);
        Directory::open(&path).expect("free again");
    }

    #[test]
    fn what_is_written_is_for_its_owner_only() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let directory = Directory::open(parent.path()).expect("a directory");
        directory.write_json("keys.json", &["one"]).expect("written");
        directory.write_json("keys.json", &["two"]).expect("written again");
        let mode = fs::metadata(directory.file("keys.json")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(directory.read_json::<Vec<String>>("keys.json").expect("readable"), Some(vec!["two".into()]));
        directory.remove("keys.json").expect("removed");
        directory.remove("keys.json").expect("nothing to remove");
        assert_eq!(directory.read("keys.json").expect("readable"), None);
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let directory = Directory::open(parent.path()).expect("a directory");
        directory.write("keys.json", "{").expect("written");
        let error = directory.read_json::<Vec<String>>("keys.json").expect_err("half a file");
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
    }
}
