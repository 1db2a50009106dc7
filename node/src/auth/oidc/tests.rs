use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, encode};
use serde_json::json;
use sotto_common::time::MockClock;
use tempfile::TempDir;

use super::*;
use crate::auth::testing::{AUDIENCE, ISSUER, IssuerKey, claims, key_set, put};

fn now() -> Timestamp {
    Timestamp::from_seconds(1_800_000_000)
}

/// The settings with a file of keys.
fn config(dir: &TempDir, keys: &str) -> OidcConfig {
    OidcConfig {
        issuer: ISSUER.into(),
        audience: AUDIENCE.into(),
        jwks_file: Some(put(dir.path(), "jwks.json", keys)),
        jwks_url: None,
        jwks_ca: None,
        algorithms: OidcConfig::default_algorithms(),
        roles_claim: Some("roles".into()),
        access_token_claim: None,
        leeway: OidcConfig::default_leeway(),
    }
}

struct Lab {
    dir: TempDir,
    clock: MockClock,
    tokens: Tokens,
}

impl Lab {
    async fn new(keys: &[&IssuerKey]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = MockClock::at(now());
        let config = config(&dir, &key_set(keys));
        let tokens = Tokens::load(&config, false, Arc::new(clock.clone()));
        Self {
            tokens: tokens.await.expect("loaded"),
            dir,
            clock,
        }
    }

    async fn refusal(&self, token: &str) -> String {
        let error = self.tokens.check(token).await.expect_err("refused");
        assert_eq!(error.code, ErrorCode::IdentityMissing);
        let text = error.to_string();
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!text.contains(part), "{text}");
        }
        text
    }
}

#[tokio::test]
async fn tokens_signed_by_a_key_of_the_issuer_name_their_holder() {
    for algorithm in [
        Algorithm::RS256,
        Algorithm::PS256,
        Algorithm::ES256,
        Algorithm::EdDSA,
    ] {
        let key = IssuerKey::new("k1", algorithm);
        let lab = Lab::new(&[&key]).await;
        let mut claims = claims("jane", now());
        claims["roles"] = json!(["analyst", "data_manager", "king", 7]);
        let holder = lab.tokens.check(&key.sign(&key.header(), &claims)).await;
        let expected = Holder {
            person: format!("oidc:{ISSUER}#jane"),
            roles: BTreeSet::from([Role::Analyst, Role::DataManager]),
            until: now().plus(Duration::from_secs(330)),
        };
        assert_eq!(holder.expect("taken"), expected, "{algorithm:?}");
        for typ in ["AT+JWT", "application/at+jwt"] {
            let mut header = key.header();
            header.typ = Some(typ.into());
            assert!(
                lab.tokens.check(&key.sign(&header, &claims)).await.is_ok(),
                "{typ}"
            );
        }
    }
}

#[tokio::test]
async fn an_id_token_for_the_same_audience_opens_nothing() {
    let key = IssuerKey::new("k1", Algorithm::ES256);
    let lab = Lab::new(&[&key]).await;
    let mut header = key.header();
    header.typ = Some("JWT".into());
    let mut id_token = claims("jane", now());
    id_token["nonce"] = json!("n-0S6");
    id_token["typ"] = json!("ID");
    let id_token = key.sign(&header, &id_token);
    assert!(lab.refusal(&id_token).await.contains("not at+jwt"));
    // Nor where the provider's access tokens are of the same type, and told apart by a claim.
    for (setting, claim, value) in [
        ("typ=Bearer", "typ", json!("Bearer")),
        ("scp", "scp", json!("sotto.read")),
        ("scp", "scp", json!(["sotto.read"])),
    ] {
        let mut config = config(&lab.dir, &key_set(&[&key]));
        config.access_token_claim = Some(setting.parse().expect("a claim"));
        let tokens = Tokens::load(&config, false, Arc::new(lab.clock.clone()));
        let tokens = tokens.await.expect("loaded");
        let mut access = claims("jane", now());
        access[claim] = value;
        let access = key.sign(&header, &access);
        assert!(tokens.check(&access).await.is_ok(), "{setting}");
        let error = tokens.check(&id_token).await.expect_err("refused");
        assert!(error.to_string().contains("ID token"), "{error}");
        // What says that it is an access token needs no claim.
        assert!(tokens.check(&key.token("jane", now())).await.is_ok());
    }
    for bad in ["", "=Bearer", "typ=", "typ", "sub", "nonce"] {
        assert!(bad.parse::<AccessTokenClaim>().is_err(), "{bad}");
    }
}

#[tokio::test]
async fn claims_that_are_wrong_are_refused_one_by_one() {
    let key = IssuerKey::new("k1", Algorithm::ES256);
    let lab = Lab::new(&[&key]).await;
    let at = now().seconds();
    for (name, value, expected) in [
        ("exp", json!(at - 30), "run out"),
        ("exp", json!("soon"), "not valid"),
        ("exp", Value::Null, "not valid"),
        ("nbf", json!(at + 31), "not valid yet"),
        ("iat", json!(at + 31), "not valid yet"),
        ("iss", json!("https://other.test"), "another issuer"),
        ("iss", json!([ISSUER]), "not valid"),
        ("aud", json!("other"), "another audience"),
        ("aud", json!([]), "another audience"),
        ("sub", json!(""), "no subject"),
        ("sub", json!("a\nb"), "no subject"),
        ("sub", json!("x".repeat(256)), "no subject"),
        ("cnf", json!({ "jkt": "x" }), "bound to a key"),
    ] {
        let mut claims = claims("jane", now());
        claims[name] = value;
        let text = lab.refusal(&key.sign(&key.header(), &claims)).await;
        assert!(text.contains(expected), "{name}: {text}");
    }
    for missing in ["exp", "iss", "aud", "sub"] {
        let mut claims = claims("jane", now());
        claims.as_object_mut().expect("an object").remove(missing);
        let text = lab.refusal(&key.sign(&key.header(), &claims)).await;
        assert!(
            text.contains("lacks") || text.contains("not valid"),
            "{missing}: {text}"
        );
    }
    // Clocks may differ by the leeway, and `iat` and `nbf` may be absent.
    let mut claims = claims("jane", now());
    (claims["exp"], claims["nbf"]) = (json!(at - 29), json!(at + 30));
    claims.as_object_mut().expect("an object").remove("iat");
    let token = key.sign(&key.header(), &claims);
    assert!(lab.tokens.check(&token).await.is_ok());
    lab.clock.advance(Duration::from_secs(1));
    assert!(lab.refusal(&token).await.contains("run out"));
}

#[tokio::test]
async fn only_the_algorithms_of_the_key_and_the_settings_are_taken() {
    let (rsa, ec) = (
        IssuerKey::new("rsa", Algorithm::RS256),
        IssuerKey::new("ec", Algorithm::ES256),
    );
    let lab = Lab::new(&[&rsa, &ec]).await;
    let claims = claims("jane", now());

    // The public key as a shared secret.
    let modulus = rsa.public()["n"].as_str().expect("a modulus").to_owned();
    let mut header = rsa.header();
    header.alg = Algorithm::HS256;
    for secret in [
        modulus.as_bytes(),
        &URL_SAFE_NO_PAD.decode(&modulus).expect("base64"),
    ] {
        let token = encode(&header, &claims, &EncodingKey::from_secret(secret)).expect("signed");
        assert!(lab.refusal(&token).await.contains("algorithm"));
    }
    // No signature at all.
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    for algorithm in ["none", "None", "HS256", "RS256"] {
        let header = json!({ "alg": algorithm, "typ": "JWT", "kid": "rsa" });
        lab.refusal(&format!("{}.{}.", part(&header), part(&claims)))
            .await;
    }
    // Another algorithm of the same key, and the key of another algorithm.
    let mut header = rsa.header();
    header.alg = Algorithm::PS256;
    assert!(
        lab.refusal(&rsa.sign(&header, &claims))
            .await
            .contains("not its key's")
    );
    let mut header = ec.header();
    header.kid = Some("rsa".into());
    assert!(
        lab.refusal(&ec.sign(&header, &claims))
            .await
            .contains("not its key's")
    );
    // One that the settings leave out.
    let mut config = config(&lab.dir, &key_set(&[&rsa, &ec]));
    config.algorithms = vec!["ES256".parse().expect("known")];
    let tokens = Tokens::load(&config, false, Arc::new(lab.clock.clone()))
        .await
        .expect("loaded");
    assert!(tokens.check(&ec.token("jane", now())).await.is_ok());
    let error = tokens
        .check(&rsa.token("jane", now()))
        .await
        .expect_err("refused");
    assert!(error.to_string().contains("not taken here"));
}

#[tokio::test]
async fn keys_headers_and_forms_that_are_wrong_are_refused() {
    let key = IssuerKey::new("k1", Algorithm::EdDSA);
    let lab = Lab::new(&[&key]).await;
    let claims = claims("jane", now());
    let with = |change: fn(&mut Header)| {
        let mut header = key.header();
        change(&mut header);
        key.sign(&header, &claims)
    };
    for (token, expected) in [
        (with(|header| header.kid = None), "kid"),
        (with(|header| header.kid = Some(String::new())), "kid"),
        (
            with(|header| header.kid = Some("k2".into())),
            "a key that its issuer",
        ),
        (with(|header| header.typ = None), "typ"),
        (with(|header| header.typ = Some("logout+jwt".into())), "typ"),
        (
            with(|header| header.crit = Some(vec!["b64".into()])),
            "critical",
        ),
        (
            IssuerKey::new("k1", Algorithm::EdDSA).token("jane", now()),
            "not signed",
        ),
        ("x".repeat(8193), "8 KiB"),
        ("x".into(), "signed JWT"),
        ("..".into(), "signed JWT"),
        (String::new(), "signed JWT"),
    ] {
        let text = lab.refusal(&token).await;
        assert!(text.contains(expected), "{text}");
    }
    // A claim that was changed after signing.
    let token = key.token("jane", now());
    let mut parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    let mut other = claims.clone();
    other["sub"] = json!("joan");
    parts[1] = URL_SAFE_NO_PAD.encode(other.to_string());
    assert!(lab.refusal(&parts.join(".")).await.contains("not signed"));
}

#[tokio::test]
async fn keys_change_with_their_file_and_a_broken_file_leaves_them() {
    let (old, new) = (
        IssuerKey::new("old", Algorithm::ES256),
        IssuerKey::new("new", Algorithm::EdDSA),
    );
    let lab = Lab::new(&[&old]).await;
    let file = lab.tokens.file().expect("a file");
    assert!(lab.tokens.check(&new.token("jane", now())).await.is_err());
    put(lab.dir.path(), "jwks.json", &key_set(&[&old, &new]));
    file.look();
    assert!(lab.tokens.check(&new.token("jane", now())).await.is_ok());
    put(lab.dir.path(), "jwks.json", "{\"keys\": [");
    file.look();
    assert!(lab.tokens.check(&old.token("jane", now())).await.is_ok());
    put(lab.dir.path(), "jwks.json", &key_set(&[&new]));
    file.look();
    assert!(lab.tokens.check(&old.token("jane", now())).await.is_err());
}

/// A setting that is made wrong.
type Change = fn(&mut OidcConfig);

#[tokio::test]
async fn settings_that_would_let_in_the_wrong_people_are_refused_at_the_start() {
    let key = IssuerKey::new("k1", Algorithm::RS256);
    let dir = tempfile::tempdir().expect("a directory");
    let good = config(&dir, &key_set(&[&key]));
    let refusal = async |change: &dyn Fn(&mut OidcConfig), has_roles_file| {
        let mut config = good.clone();
        change(&mut config);
        let loaded = Tokens::load(&config, has_roles_file, Arc::new(MockClock::at(now()))).await;
        loaded
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    assert_eq!(refusal(&|_| {}, false).await, "");
    assert_eq!(refusal(&|config| config.roles_claim = None, true).await, "");
    let cases: [(Change, &str); 9] = [
        (
            |config| config.issuer = "http://login.test".into(),
            "oidc.issuer",
        ),
        (
            |config| config.issuer = "https://login.test#x".into(),
            "oidc.issuer",
        ),
        (|config| config.audience.clear(), "oidc.audience"),
        (|config| config.algorithms.clear(), "oidc.algorithms"),
        (
            |config| config.leeway.0 = Duration::from_secs(61),
            "oidc.leeway",
        ),
        (|config| config.roles_claim = None, "oidc.roles_claim"),
        (|config| config.jwks_file = None, "jwks_file"),
        (
            |config| config.jwks_url = Some("https://login.test".into()),
            "jwks_file",
        ),
        (
            |config| config.jwks_file = Some("/nowhere/jwks".into()),
            "/nowhere/jwks",
        ),
    ];
    for (change, expected) in cases {
        let text = refusal(&change, false).await;
        assert!(text.contains(expected), "{text}");
    }
    for algorithm in ["HS256", "HS384", "HS512", "none", "rs256", ""] {
        assert!(algorithm.parse::<TokenAlgorithm>().is_err(), "{algorithm}");
    }
    let mut private = key.public();
    private["d"] = json!("AQAB");
    let mut nameless = key.public();
    nameless.as_object_mut().expect("an object").remove("kid");
    let mut encrypting = key.public();
    encrypting["use"] = json!("enc");
    let mut short = key.public();
    short["n"] = json!(URL_SAFE_NO_PAD.encode([0xff; 128]));
    let symmetric = json!({ "kty": "oct", "k": "AQAB", "kid": "k1", "alg": "HS256" });
    for (keys, expected) in [
        (json!([]), "no key"),
        (json!([private]), "private key"),
        (json!([nameless]), "no key"),
        (json!([encrypting]), "no key"),
        (json!([short]), "no key"),
        (json!([symmetric]), "no key"),
        (json!([key.public(), key.public()]), "same `kid`"),
        (json!("x"), "RFC 7517"),
    ] {
        put(
            dir.path(),
            "jwks.json",
            &json!({ "keys": keys }).to_string(),
        );
        let text = refusal(&|_| {}, false).await;
        assert!(
            text.contains(expected) && text.contains("jwks.json"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn roles_are_read_from_the_claim_by_name_or_path() {
    let key = IssuerKey::new("k1", Algorithm::ES256);
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(&dir, &key_set(&[&key]));
    for (claim, value, expected) in [
        ("roles", json!({ "roles": "approver analyst" }), 2),
        ("roles", json!({ "roles": ["supervisor"] }), 1),
        ("roles", json!({ "roles": { "analyst": true } }), 0),
        ("roles", json!({}), 0),
        (
            "https://x.test/r",
            json!({ "https://x.test/r": ["analyst"] }),
            1,
        ),
        (
            "/realm/roles",
            json!({ "realm": { "roles": ["analyst"] } }),
            1,
        ),
        ("/realm/roles", json!({ "roles": ["analyst"] }), 0),
    ] {
        config.roles_claim = Some(claim.into());
        let tokens = Tokens::load(&config, false, Arc::new(MockClock::at(now()))).await;
        let mut all = claims("jane", now());
        let more = value.as_object().expect("an object").clone();
        all.as_object_mut().expect("an object").extend(more);
        let holder = tokens
            .expect("loaded")
            .check(&key.sign(&key.header(), &all))
            .await;
        assert_eq!(
            holder.expect("taken").roles.len(),
            expected,
            "{claim} {value}"
        );
    }
}
