//! Configuration: defaults → TOML file → environment → flags, into one typed struct. What can't be read is refused, with the
//! setting, where it was set, and what to write instead.
//!
//! A setting is `section.field`: in the file as TOML has it, in the environment as `HOOKWIRE_SECTION__FIELD`, on the command
//! line as `--set section.field=value`. The last two are text; where a setting is no text, the text is read as TOML.

use std::fs;
use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What variables of the environment begin with.
const PREFIX: &str = "HOOKWIRE_";
/// What stands for a secret when settings are shown.
const REDACTED: &str = "(set, not shown)";

/// Settings that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("the configuration file {path} can't be read: {source}")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not TOML: {detail}")]
    Syntax {
        /// Its path.
        path: PathBuf,
        /// What is wrong, and where.
        detail: String,
    },
    /// There is no such setting.
    #[error("there is no setting `{setting}` ({origin}); {instead}")]
    Unknown {
        /// What was set.
        setting: String,
        /// Where.
        origin: String,
        /// The nearest known one, or all of them.
        instead: String,
    },
    /// A setting has a value that it can't have.
    #[error("`{setting}` ({origin}): {detail}")]
    Value {
        /// Which setting.
        setting: String,
        /// Where it was set.
        origin: String,
        /// What is wrong and what to write.
        detail: String,
    },
    /// `--set` without a value.
    #[error("`--set {given}` sets nothing; write `--set section.field=value`")]
    Flag {
        /// What was given.
        given: String,
    },
}

/// Where settings come from besides their defaults.
#[derive(Debug, Default)]
pub struct Sources {
    /// The TOML file.
    pub file: Option<PathBuf>,
    /// The environment, all of it.
    pub environment: Vec<(String, String)>,
    /// Of each `--set`, what follows it.
    pub flags: Vec<String>,
}

impl Sources {
    /// This process's environment, and what its command line says.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<String>) -> Self {
        // A variable that is not UTF-8 is none of ours.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { file, environment, flags }
    }

    /// Reads settings; what is set nowhere is as in `defaults`.
    ///
    /// # Errors
    /// The first setting that can't be used. Whether they make sense together is for the settings' own `validate`.
    pub fn load<S: Serialize + DeserializeOwned>(&self, defaults: S) -> Result<S, Error> {
        let mut base = Figment::from(Serialized::defaults(defaults));
        if let Some(path) = &self.file {
            base = base.merge(toml(path)?);
        }
        let mut texts = self.texts(&base)?;
        loop {
            let figment = texts.iter().fold(base.clone(), |figment, text| figment.merge(text));
            let error = match figment.extract() {
                Ok(settings) => return Ok(settings),
                Err(error) => error,
            };
            // Text comes first, so that a password of digits stays what it is; each text is read as TOML at most once.
            let setting = error.path.join(".");
            let unread = |text: &&mut Text| text.typed.is_none() && reaches(&setting, &text.setting);
            match texts.iter_mut().rev().find(unread) {
                Some(text) if !matches!(error.kind, Kind::UnknownField(..)) => text.read_as_toml(),
                _ => return Err(explain(error)),
            }
        }
    }

    fn texts(&self, base: &Figment) -> Result<Vec<Text>, Error> {
        let sections: Dict = base.extract().unwrap_or_default();
        let mut texts = Vec::new();
        for (name, value) in &self.environment {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let setting = rest.to_ascii_lowercase().replace("__", ".");
            if setting.contains('.') {
                texts.push(Text::new(setting, value, format!("from {name}")));
            } else if let Some(meant) = sections.keys().find_map(|s| Some((s, setting.strip_prefix(&format!("{s}_"))?)))
            {
                let meant = format!("{PREFIX}{}__{}", meant.0, meant.1).to_ascii_uppercase();
                let instead = format!("section and field are joined by two underscores: write {meant}");
                return Err(Error::Unknown { setting, origin: format!("from {name}"), instead });
            }
        }
        // The order of the environment means nothing; a section set as a whole must not hide one of its fields.
        texts.sort_by(|a, b| a.setting.cmp(&b.setting));
        for flag in &self.flags {
            let (setting, value) = flag.split_once('=').ok_or_else(|| Error::Flag { given: flag.clone() })?;
            texts.push(Text::new(setting.trim().to_owned(), value, "from --set".into()));
        }
        Ok(texts)
    }
}

fn toml(path: &Path) -> Result<impl Provider, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::File { path: path.into(), source })?;
    let settings = Toml::from_str(&text)
        .map_err(|error: <Toml as Format>::Error| Error::Syntax { path: path.into(), detail: error.to_string() })?;
    Ok(File { name: format!("in {}", path.display()), settings })
}

/// A TOML file that was read.
struct File {
    name: String,
    settings: Dict,
}

impl Provider for File {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.settings.clone()))
    }
}

/// One setting, given as text.
struct Text {
    setting: String,
    text: String,
    origin: String,
    /// What it is as TOML, once it is known to be no text.
    typed: Option<Value>,
}

impl Text {
    fn new(setting: String, text: &str, origin: String) -> Self {
        Self { setting, text: text.to_owned(), origin, typed: None }
    }

    fn read_as_toml(&mut self) {
        let as_is = || Value::from(self.text.as_str());
        self.typed = Some(match Toml::from_str::<Dict>(&format!("value = {}", self.text)) {
            Ok(mut table) => table.remove("value").unwrap_or_else(as_is),
            Err(_) => as_is(),
        });
    }
}

impl Provider for &Text {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let value = self.typed.clone().unwrap_or_else(|| Value::from(self.text.as_str()));
        Serialized::default(&self.setting, value).data()
    }
}

/// Whether an error at `at` may come from what was set at `set`.
fn reaches(at: &str, set: &str) -> bool {
    at == set || at.strip_prefix(set).is_some_and(|rest| rest.starts_with('.'))
}

fn explain(error: figment::Error) -> Error {
    let origin = error.metadata.as_ref().map_or_else(|| "by default".into(), |metadata| metadata.name.to_string());
    let mut path = error.path.clone();
    if let Kind::UnknownField(field, known) = &error.kind {
        if path.last() != Some(field) {
            path.push(field.clone());
        }
        let section = &path[..path.len() - 1];
        return Error::Unknown { setting: path.join("."), origin, instead: instead(field, section, known) };
    }
    let setting = path.join(".");
    let detail = match &error.kind {
        Kind::UnknownVariant(found, known) => format!("`{found}` is none of `{}`", known.join("`, `")),
        kind if !is_secret(&setting) => kind.to_string(),
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) | Kind::InvalidLength(_, expected) => {
            format!("the value (not shown) is not {expected}")
        }
        _ => "the value (not shown) can't be used".into(),
    };
    Error::Value { setting, origin, detail }
}

fn instead(field: &str, section: &[String], known: &[&str]) -> String {
    let full = |name: &str| [section, &[name.to_owned()]].concat().join(".");
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(field, name), *name))
        .min()
        .filter(|(distance, name)| *distance <= name.len().div_ceil(3));
    match nearest {
        Some((_, name)) => format!("did you mean `{}`?", full(name)),
        None if known.is_empty() => "there is nothing to set there".into(),
        None => {
            let known: Vec<_> = known.iter().map(|name| format!("`{}`", full(name))).collect();
            format!("known are {}", known.join(", "))
        }
    }
}

/// Whether a setting's value is never shown. Settings with a secret are named for it; `…_file` names where it is.
fn is_secret(setting: &str) -> bool {
    let field = setting.rsplit('.').next().unwrap_or(setting);
    !field.ends_with("_file") && ["password", "secret", "master_key"].iter().any(|secret| field.contains(secret))
}

/// Settings as TOML, without secrets; what is not set is left out.
///
/// # Errors
/// Does not happen for settings: they are tables of plain values.
pub fn show(settings: &impl Serialize) -> Result<String, toml::ser::Error> {
    let mut value = toml::Value::try_from(settings)?;
    redact("", &mut value);
    toml::to_string_pretty(&value)
}

fn redact(setting: &str, value: &mut toml::Value) {
    match value {
        toml::Value::Table(table) => table.iter_mut().for_each(|(name, value)| redact(name, value)),
        toml::Value::Array(values) => values.iter_mut().for_each(|value| redact(setting, value)),
        _ if is_secret(setting) => *value = REDACTED.into(),
        toml::Value::String(text) => {
            // A connection string may carry a password.
            let Ok(mut url) = url::Url::parse(text) else { return };
            if url.query_pairs().any(|(name, _)| name == "password") {
                *value = REDACTED.into();
            } else if url.password().is_some() && url.set_password(Some("REDACTED")).is_ok() {
                *text = url.into();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Settings {
        api: Api,
        store: Store,
    }

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Api {
        listen: String,
        max_bytes: usize,
        #[serde(with = "humantime_serde")]
        timeout: Duration,
        hosts: Vec<String>,
        mode: Mode,
    }

    #[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        #[default]
        Quiet,
        Plain,
    }

    #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Store {
        url: String,
        password: Option<String>,
        password_file: Option<PathBuf>,
        pool: Option<u32>,
    }

    impl Default for Api {
        fn default() -> Self {
            Self {
                listen: "default".into(),
                max_bytes: 1,
                timeout: Duration::from_secs(1),
                hosts: vec![],
                mode: Mode::Quiet,
            }
        }
    }

    fn sources(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> (tempfile::TempDir, Sources) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("hookwire.toml");
        fs::write(&path, file).expect("a file");
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let flags = flags.iter().map(|&flag| flag.into()).collect();
        (directory, Sources { file: Some(path), environment, flags })
    }

    fn load(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> Result<Settings, Error> {
        sources(file, environment, flags).1.load(Settings::default())
    }

    fn refusal(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> String {
        let (directory, sources) = sources(file, environment, flags);
        let error = sources.load(Settings::default()).expect_err("to be refused").to_string();
        error.replace(&directory.path().display().to_string(), "DIR")
    }

    #[test]
    fn flags_come_before_the_environment_before_the_file_before_defaults() {
        let file = "[api]\nlisten = 'file'\nmax_bytes = 2\ntimeout = '2s'";
        let environment = [("HOOKWIRE_API__LISTEN", "environment"), ("HOOKWIRE_API__MAX_BYTES", "3")];
        let settings = load(file, &environment, &["api.listen=flag"]).expect("valid");
        assert_eq!(
            settings.api,
            Api { listen: "flag".into(), max_bytes: 3, timeout: Duration::from_secs(2), ..Api::default() }
        );
        assert_eq!(settings.store, Store::default());
    }

    #[test]
    fn text_stays_text_where_text_is_wanted_and_is_read_as_toml_elsewhere() {
        let environment = [
            ("HOOKWIRE_STORE__PASSWORD", "0123"),
            ("HOOKWIRE_STORE__URL", "true"),
            ("HOOKWIRE_STORE__POOL", "7"),
            ("HOOKWIRE_API__HOSTS", "['a', 'b']"),
            ("HOOKWIRE_API__TIMEOUT", "90s"),
        ];
        let settings = load("", &environment, &[]).expect("valid");
        assert_eq!(settings.store.password.as_deref(), Some("0123"));
        assert_eq!(settings.store.url, "true");
        assert_eq!(settings.store.pool, Some(7));
        assert_eq!(settings.api.hosts, ["a", "b"]);
        assert_eq!(settings.api.timeout, Duration::from_secs(90));
    }

    #[test]
    fn an_unknown_setting_is_refused_with_the_nearest_known() {
        let file = refusal("[api]\nlisen = 'x'", &[], &[]);
        assert_eq!(file, "there is no setting `api.lisen` (in DIR/hookwire.toml); did you mean `api.listen`?");
        let section = refusal("[apis]\nlisten = 'x'", &[], &[]);
        assert_eq!(section, "there is no setting `apis` (in DIR/hookwire.toml); did you mean `api`?");
        let environment = refusal("", &[("HOOKWIRE_STORE__PASWORD", "x")], &[]);
        let expected =
            "there is no setting `store.pasword` (from HOOKWIRE_STORE__PASWORD); did you mean `store.password`?";
        assert_eq!(environment, expected);
        let flag = refusal("", &[], &["store.zzzzzz=1"]);
        assert!(flag.contains("`store.zzzzzz` (from --set); known are `store.url`, `store.password`"), "{flag}");
        let single = refusal("", &[("HOOKWIRE_API_LISTEN", "x")], &[]);
        assert!(single.ends_with("write HOOKWIRE_API__LISTEN"), "{single}");
    }

    #[test]
    fn a_wrong_value_is_refused_with_where_it_was_set() {
        let duration = refusal("[api]\ntimeout = 5", &[], &[]);
        assert!(duration.starts_with("`api.timeout` (in DIR/hookwire.toml): invalid type"), "{duration}");
        let number = refusal("", &[("HOOKWIRE_API__MAX_BYTES", "many")], &[]);
        assert!(number.starts_with("`api.max_bytes` (from HOOKWIRE_API__MAX_BYTES)"), "{number}");
        assert!(number.contains("many") && number.contains("usize"), "{number}");
        let variant = refusal("[api]\nmode = 'loud'", &[], &[]);
        assert_eq!(variant, "`api.mode` (in DIR/hookwire.toml): `loud` is none of `quiet`, `plain`");
        let syntax = refusal("api = [", &[], &[]);
        assert!(syntax.starts_with("DIR/hookwire.toml is not TOML"), "{syntax}");
        let flag = refusal("", &[], &["api.listen"]);
        assert_eq!(flag, "`--set api.listen` sets nothing; write `--set section.field=value`");
    }

    #[test]
    fn a_missing_file_is_refused() {
        let sources = Sources { file: Some("/nonexistent/hookwire.toml".into()), ..Sources::default() };
        let error = sources.load(Settings::default()).expect_err("no file").to_string();
        assert!(error.starts_with("the configuration file /nonexistent/hookwire.toml can't be read"), "{error}");
    }

    #[test]
    fn secrets_are_shown_neither_in_errors_nor_on_request() {
        let error = refusal("[store]\npassword = 12345", &[], &[]);
        assert!(error.starts_with("`store.password`") && !error.contains("12345"), "{error}");
        let store = Store {
            url: "postgres://hookwire:hunter2@db/hookwire".into(),
            password: Some("hunter2".into()),
            password_file: Some("/run/secrets/store".into()),
            pool: None,
        };
        let settings = Settings { store, ..Settings::default() };
        let shown = show(&settings).expect("TOML");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("/run/secrets/store") && shown.contains("timeout = \"1s\""), "{shown}");
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        let shown = show(&Settings::default()).expect("TOML");
        assert_eq!(load(&shown, &[], &[]).expect("valid"), Settings::default());
    }
}
