//! The setting `objects`: which store keeps the filters, and where.

use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;
use url::{Host, Url};

/// Where filters and the chunks of uploads are kept.
#[derive(Clone, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "String")]
pub enum ObjectsUrl {
    /// `local:`: the folder `objects` in the broker's own folder; for one broker alone.
    #[default]
    Local,
    /// `file:///folder`: a folder elsewhere, that is there already and that several brokers may
    /// share.
    Directory(PathBuf),
    /// `s3://bucket/prefix?region=…&endpoint=…`: a service that speaks S3.
    S3(S3Url),
}

/// A part of a bucket, without the credentials for it.
///
/// Nothing else may keep objects below the prefix. Without `endpoint` it is the bucket at AWS in
/// `region`; with it the bucket stands in the path of the request, and `region` is `us-east-1`
/// unless the URL says otherwise. The server's certificate is verified against the authorities of
/// the machine, or those in the file that the variable `SSL_CERT_FILE` names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct S3Url {
    pub(crate) bucket: String,
    /// Segments with `/` between them; empty for the whole bucket.
    pub(crate) prefix: String,
    pub(crate) region: String,
    pub(crate) endpoint: Option<Url>,
}

/// What is wrong with the setting; repeats nothing of it, as it may hold a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("objects: {0}")]
pub struct InvalidObjects(&'static str);

const FORM: InvalidObjects = InvalidObjects(
    "expected `local:`, `file:///folder` or `s3://bucket/prefix?region=…&endpoint=https://…`",
);

impl FromStr for ObjectsUrl {
    type Err = InvalidObjects;

    fn from_str(text: &str) -> Result<Self, InvalidObjects> {
        if text == "local:" {
            return Ok(Self::Local);
        }
        let url = Url::parse(text).map_err(|_| FORM)?;
        if has_credentials(&url) {
            return Err(NO_CREDENTIALS);
        }
        if url.fragment().is_some() {
            return Err(FORM);
        }
        match url.scheme() {
            "file" => directory(text, &url).map(Self::Directory),
            "s3" => S3Url::parse(&url).map(Self::S3),
            _ => Err(FORM),
        }
    }
}

impl TryFrom<String> for ObjectsUrl {
    type Error = InvalidObjects;

    fn try_from(text: String) -> Result<Self, InvalidObjects> {
        text.parse()
    }
}

const NO_CREDENTIALS: InvalidObjects = InvalidObjects(
    "takes no credentials: put them into a file of mode 0600, and name the file in \
     `objects_credentials_file`",
);

fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

fn directory(text: &str, url: &Url) -> Result<PathBuf, InvalidObjects> {
    // A relative path would have been made absolute by now.
    let absolute = text.starts_with("file:///") && url.query().is_none();
    let path = url.to_file_path().ok().filter(|_| absolute).ok_or(FORM)?;
    if path.parent().is_none() {
        return Err(InvalidObjects("name a folder below the root"));
    }
    Ok(path)
}

impl S3Url {
    fn parse(url: &Url) -> Result<Self, InvalidObjects> {
        let bucket = url.host_str().filter(|name| is_bucket(name)).ok_or(FORM)?;
        let prefix = url.path().trim_matches('/');
        let segments_are_plain = prefix.is_empty() || prefix.split('/').all(is_segment);
        if url.port().is_some() || !segments_are_plain {
            return Err(FORM);
        }
        let (mut region, mut endpoint) = (None, None);
        for (name, value) in url.query_pairs() {
            let taken = match &*name {
                "region" => region.replace(parse_region(&value)?).is_some(),
                "endpoint" => endpoint.replace(parse_endpoint(&value)?).is_some(),
                _ => {
                    let text = "has an unknown parameter; known are region and endpoint, and \
                                credentials stand in `objects_credentials_file`";
                    return Err(InvalidObjects(text));
                }
            };
            if taken {
                return Err(InvalidObjects("has a parameter twice"));
            }
        }
        let region = match (region, &endpoint) {
            (Some(region), _) => region,
            (None, Some(_)) => "us-east-1".to_owned(),
            (None, None) => {
                let text = "has neither `region`, for a bucket at AWS, nor `endpoint`, for one \
                            elsewhere";
                return Err(InvalidObjects(text));
            }
        };
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            region,
            endpoint,
        })
    }
}

/// AWS's rules for names of buckets, less the reserved ones: no dots beside each other.
fn is_bucket(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(is_lower_or_digit_or_dash)
    };
    (3..=63).contains(&name.len()) && name.split('.').all(label)
}

fn is_lower_or_digit_or_dash(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn is_segment(segment: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(plain)
}

fn parse_region(text: &str) -> Result<String, InvalidObjects> {
    let plain = (1..=63).contains(&text.len()) && text.bytes().all(is_lower_or_digit_or_dash);
    plain
        .then(|| text.to_owned())
        .ok_or(InvalidObjects("`region` is a name such as `eu-central-1`"))
}

fn parse_endpoint(text: &str) -> Result<Url, InvalidObjects> {
    let form = InvalidObjects("`endpoint` is of the form `https://host:port`");
    let url = Url::parse(text).map_err(|_| form)?;
    if has_credentials(&url) {
        return Err(NO_CREDENTIALS);
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(form);
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err(InvalidObjects(
            "`endpoint` is `https://…`: plain `http://…` is for this machine alone (localhost, \
             127.0.0.1, [::1])",
        )),
        _ => Err(form),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(text: &str) -> S3Url {
        match text.parse() {
            Ok(ObjectsUrl::S3(url)) => url,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(text: &str) -> String {
        text.parse::<ObjectsUrl>().expect_err(text).to_string()
    }

    #[test]
    fn the_store_is_chosen_by_the_scheme() {
        assert_eq!("local:".parse(), Ok(ObjectsUrl::Local));
        assert_eq!(ObjectsUrl::default(), ObjectsUrl::Local);
        let folder = ObjectsUrl::Directory("/srv/sotto objects".into());
        assert_eq!("file:///srv/sotto%20objects".parse(), Ok(folder));
        let url = s3("s3://sotto-filters/prod/nl?region=eu-central-1");
        assert_eq!(
            (&*url.bucket, &*url.prefix, &*url.region, url.endpoint),
            ("sotto-filters", "prod/nl", "eu-central-1", None)
        );
        let url = s3("s3://sotto-filters?endpoint=https://s3.example:9000");
        assert_eq!((&*url.prefix, &*url.region), ("", "us-east-1"));
        let endpoint = url.endpoint.expect("an endpoint");
        assert_eq!(endpoint.as_str(), "https://s3.example:9000/");
    }

    #[test]
    fn what_is_none_of_the_forms_is_refused() {
        for text in [
            "",
            "objects",
            "/srv/objects",
            "local:/srv/objects",
            "file:objects",
            "file://host/srv/objects",
            "file:///",
            "file:///srv/objects?x=1",
            "gs://bucket/prefix",
            "https://bucket.s3.amazonaws.com/",
            "s3:bucket",
            "s3://bucket",
            "s3://Bucket?region=eu-central-1",
            "s3://b?region=eu-central-1",
            "s3://bucket:9000?region=eu-central-1",
            "s3://bucket/a//b?region=eu-central-1",
            "s3://bucket/a%2Fb?region=eu-central-1",
            "s3://bucket?region=eu-central-1#part",
            "s3://bucket?region=",
            "s3://bucket?region=a&region=b",
            "s3://bucket?endpoint=s3.example",
            "s3://bucket?endpoint=ftp://s3.example",
            "s3://bucket?endpoint=https://s3.example/path",
        ] {
            refusal(text);
        }
    }

    #[test]
    fn plain_http_is_for_this_machine_alone() {
        for host in ["localhost:9000", "127.0.0.1:9000", "[::1]:9000"] {
            s3(&format!("s3://bucket?endpoint=http://{host}"));
        }
        for host in ["s3.example", "10.0.0.1", "localhost.example", "0.0.0.0"] {
            let text = refusal(&format!("s3://bucket?endpoint=http://{host}"));
            assert!(text.contains("https://"), "{text}");
        }
    }

    #[test]
    fn credentials_stand_in_their_file_and_in_no_text() {
        for text in [
            "s3://AKIA:hunter2@bucket?region=eu-central-1",
            "s3://hunter2@bucket?region=eu-central-1",
            "s3://bucket?region=eu-central-1&secret_access_key=hunter2",
            "s3://bucket?region=eu-central-1&hunter2",
            "s3://bucket?region=hunter2%00",
            "s3://bucket?endpoint=https://key:hunter2@s3.example",
        ] {
            let error = refusal(text);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
