//! Who must stand behind the audit log for a proof to be believed offline: the keys of witnesses, as the
//! caller knows them from elsewhere than from what is checked (protocol §11).

use clap::Args;
use sotto_common::ids::{InvalidId, NodeId};
use sotto_common::log::cosignature::WitnessKey;
use sotto_common::log::note::{NoteKey, SignatureType};
use sotto_common::log::quorum::WitnessPolicy;

/// What is told where no witness was given.
pub(crate) const NOT_CHECKED: &str =
    "no --witness was given: that the log shows everybody the same was not checked";

/// The witnesses of a proof.
#[derive(Args, Default, Debug)]
pub(crate) struct WitnessArgs {
    /// The cosigning key of a witness, a verifier key of type 04; may be given several times
    #[arg(
        long = "witness",
        visible_alias = "witness-key",
        value_name = "VKEY",
        value_parser = witness
    )]
    witnesses: Vec<WitnessKey>,
    /// How many of the witnesses must stand behind the log [default: all that are given]
    #[arg(long, value_name = "N", requires = "witnesses")]
    quorum: Option<usize>,
}

impl WitnessArgs {
    /// These keys, of which so many are required, as if given on the command line.
    #[cfg(test)]
    pub(crate) const fn of(witnesses: Vec<WitnessKey>, quorum: Option<usize>) -> Self {
        Self { witnesses, quorum }
    }

    /// Whether none was given: then nothing is known of who stands behind the log.
    pub(crate) const fn is_empty(&self) -> bool {
        self.witnesses.is_empty()
    }

    /// The witnesses, and how many must stand behind the log.
    pub(crate) fn policy(&self) -> WitnessPolicy {
        let required = self.quorum.unwrap_or(self.witnesses.len());
        WitnessPolicy::new(self.witnesses.clone(), required)
    }
}

/// The key of a witness, named `<trust domain>/node/<node id>`.
fn witness(text: &str) -> Result<WitnessKey, String> {
    let expected = "expected <trust domain>/node/<node id>+<key id>+<key>, of type 04";
    let key: NoteKey = text.parse().map_err(|error: InvalidId| error.to_string())?;
    let named = key.name().as_str().split_once("/node/");
    let (domain, node) = named.ok_or(expected)?;
    let node: NodeId = node.parse().map_err(|error: InvalidId| error.to_string())?;
    if key.kind() != SignatureType::CosignatureV1 {
        return Err(expected.into());
    }
    WitnessKey::new(domain, node, *key.key()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use sotto_common::dsse::SigningKey;
    use sotto_common::log::cosignature::Cosigner;
    use sotto_common::random::os_rng;

    use super::*;

    #[test]
    fn witnesses_are_taken_as_verifier_keys_of_nodes() {
        let signing = SigningKey::generate(&mut os_rng());
        let node = "nl-fiu".parse().expect("a node");
        let cosigner = Cosigner::new("sotto.example", node, signing).expect("a witness");
        let text = cosigner.key().note_key().to_string();
        assert_eq!(witness(&text).as_ref(), Ok(cosigner.key()));
        for bad in [
            "",
            "sotto.example/node/nl-fiu",
            &text.replace("/node/", "/"),
        ] {
            assert!(witness(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn all_that_are_given_are_required_unless_a_number_is_told() {
        let key = |node: &str| {
            let signing = SigningKey::generate(&mut os_rng());
            let node = node.parse().expect("a node");
            let cosigner = Cosigner::new("sotto.example", node, signing);
            cosigner.expect("a witness").key().clone()
        };
        let keys = vec![key("nl-fiu"), key("de-bka"), key("fr-pj")];
        let given = WitnessArgs::of(keys.clone(), None);
        assert_eq!((given.policy().required(), given.is_empty()), (3, false));
        assert_eq!(WitnessArgs::of(keys, Some(2)).policy().required(), 2);
        assert!(WitnessArgs::default().is_empty());
    }
}
