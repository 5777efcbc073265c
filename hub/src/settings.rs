//! Where the hub is, where its cache lies and who asks: the environment variables of Python's `huggingface_hub`.

use super::HubError;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The hub itself.
const ENDPOINT: &str = "https://huggingface.co";

/// How to reach the hub, and where to keep what comes from there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// Address of the hub or a mirror, without a slash at the end.
    pub endpoint: String,
    /// Folder of the cache.
    pub cache: PathBuf,
    /// Who asks, for models that are not for everyone.
    pub token: Option<Token>,
    /// Use the cache alone.
    pub offline: bool,
    /// PEM file with the certificate authorities to trust instead of the usual ones.
    pub certificates: Option<PathBuf>,
    /// How to go on after errors that pass.
    pub retry: Retry,
}

/// How often to try again, and after how long.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Retry {
    /// Attempts in a row without any progress, the first one included.
    pub attempts: u32,
    /// Wait before the second attempt; it doubles from there.
    pub first_wait: Duration,
    /// Longest silence of a server.
    pub timeout: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 5, first_wait: Duration::from_millis(400), timeout: Duration::from_secs(30) }
    }
}

/// An access token. It is shown nowhere.
#[derive(Clone)]
pub struct Token {
    value: String,
    /// The variable or file that it came from.
    pub origin: String,
}

impl Token {
    /// Takes a token from where `origin` says.
    ///
    /// # Errors
    /// If it cannot be one.
    pub fn new(value: &str, origin: String) -> Result<Self, HubError> {
        let value = value.trim();
        match value.bytes().all(|b| b.is_ascii_graphic()) && !value.is_empty() {
            true => Ok(Self { value: value.into(), origin }),
            false => Err(HubError::Token { origin }),
        }
    }

    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.value)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(from {})", self.origin)
    }
}

impl Settings {
    /// A hub and a cache, and nothing from the environment: no token, the usual certificates.
    ///
    /// # Errors
    /// An endpoint that is no address.
    pub fn new(address: &str, cache: impl Into<PathBuf>) -> Result<Self, HubError> {
        Ok(Self {
            endpoint: endpoint(address)?,
            cache: cache.into(),
            token: None,
            offline: false,
            certificates: None,
            retry: Retry::default(),
        })
    }

    /// Reads `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`,
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `XDG_CACHE_HOME`, `SSL_CERT_FILE` and `REQUESTS_CA_BUNDLE`, and the token file
    /// that `hf auth login` writes.
    ///
    /// # Errors
    /// An endpoint that is no address, a token that cannot be one, or no folder for the cache.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_variables(&|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()), std::env::home_dir())
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>, user: Option<PathBuf>) -> Result<Self, HubError> {
        let any = |names: &[&str]| names.iter().find_map(|name| variable(name));
        let flag = |name: &str| variable(name).is_some_and(|v| ["1", "on", "yes", "true"].contains(&v.to_lowercase().as_str()));
        let path = |value: String| match (value.strip_prefix("~/"), &user) {
            (Some(rest), Some(user)) => user.join(rest),
            _ => PathBuf::from(value),
        };
        let home = any(&["HF_HOME"])
            .map(path)
            .or_else(|| Some(variable("XDG_CACHE_HOME").map(path)?.join("huggingface")))
            .or_else(|| Some(user.as_ref()?.join(".cache").join("huggingface")));
        let cache = any(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]).map(path).or_else(|| Some(home.as_ref()?.join("hub")));
        let token = match ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].iter().find_map(|name| Some((variable(name)?, *name))) {
            _ if flag("HF_HUB_DISABLE_IMPLICIT_TOKEN") => None,
            Some((value, name)) => Some(Token::new(&value, name.into())?),
            None => match variable("HF_TOKEN_PATH").map(path).or_else(|| Some(home.as_ref()?.join("token"))) {
                Some(file) => haikuq_files::read_text(&file, 1 << 16)
                    .ok()
                    .filter(|text| !text.trim().is_empty())
                    .map(|text| Token::new(&text, file.display().to_string()))
                    .transpose()?,
                None => None,
            },
        };
        Ok(Self {
            endpoint: endpoint(variable("HF_ENDPOINT").as_deref().unwrap_or(ENDPOINT))?,
            cache: cache.ok_or(HubError::NoCache)?,
            token,
            offline: flag("HF_HUB_OFFLINE") || flag("TRANSFORMERS_OFFLINE"),
            certificates: any(&["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"]).map(path),
            retry: Retry::default(),
        })
    }

    /// Hosts whose addresses name models: the hub's own and the endpoint's.
    pub fn hosts(&self) -> Vec<&str> {
        let endpoint = self.endpoint.split_once("://").map_or("", |e| e.1);
        let host = endpoint.split('/').next().unwrap_or_default();
        let mut hosts = vec!["huggingface.co", "hf.co"];
        if !hosts.contains(&host) {
            hosts.push(host);
        }
        hosts
    }
}

fn endpoint(text: &str) -> Result<String, HubError> {
    let text = text.trim().trim_end_matches('/');
    let uri = text.parse::<ureq::http::Uri>().ok().filter(|uri| uri.host().is_some_and(|h| !h.is_empty()));
    match uri.as_ref().and_then(|uri| uri.scheme_str()) {
        Some("http" | "https") if !text.contains(['?', '#', '@']) => Ok(text.into()),
        _ => Err(HubError::Endpoint { text: text.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        let find = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_string());
        Settings::from_variables(&find, Some("/home/ada".into()))
    }

    #[test]
    fn the_cache_lies_where_python_has_it() {
        for (variables, cache) in [
            (&[][..], "/home/ada/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x")], "/home/ada/hf/hub"),
            (&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")], "/c"),
        ] {
            assert_eq!(settings(variables).unwrap().cache, PathBuf::from(cache), "{variables:?}");
        }
    }

    #[test]
    fn a_token_comes_from_the_environment_or_the_file_that_a_login_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        assert!(settings(&[("HF_HOME", home)]).unwrap().token.is_none());
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        std::fs::write(dir.path().join("other"), "hf_other").unwrap();
        let other = dir.path().join("other").display().to_string();
        let header = |variables: &[(&str, &str)]| settings(variables).unwrap().token.map(|t| t.header());
        assert_eq!(header(&[("HF_HOME", home)]).unwrap(), "Bearer hf_file");
        assert_eq!(header(&[("HF_HOME", home), ("HF_TOKEN_PATH", &other)]).unwrap(), "Bearer hf_other");
        assert_eq!(header(&[("HF_HOME", home), ("HF_TOKEN", "hf_env")]).unwrap(), "Bearer hf_env");
        assert_eq!(header(&[("HF_TOKEN", "hf_env"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        let said = settings(&[("HF_TOKEN", "secret\nX-Other: 1")]).unwrap_err().to_string();
        assert!(said.contains("HF_TOKEN") && !said.contains("secret"), "{said}");
        assert!(!format!("{:?}", settings(&[("HF_TOKEN", "hf_env")]).unwrap()).contains("hf_env"));
    }

    #[test]
    fn a_mirror_is_an_address() {
        let mirror = settings(&[("HF_ENDPOINT", "https://mirror.example/hf/")]).unwrap();
        assert_eq!(mirror.endpoint, "https://mirror.example/hf");
        assert_eq!(mirror.hosts(), ["huggingface.co", "hf.co", "mirror.example"]);
        for text in ["mirror.example", "ftp://mirror.example", "https://", "https://user:word@mirror.example"] {
            assert!(settings(&[("HF_ENDPOINT", text)]).is_err(), "{text}");
        }
    }

    #[test]
    fn offline_is_a_flag() {
        assert!(settings(&[("HF_HUB_OFFLINE", "TRUE")]).unwrap().offline);
        assert!(!settings(&[("HF_HUB_OFFLINE", "0")]).unwrap().offline);
    }
}
