//! What an operator asks a running broker.

use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sotto_common::dsse::VerifyingKey;
use sotto_common::error::{Error, ErrorCode};
use sotto_common::filter::DEFAULT_K;
use sotto_common::ids::Role;
use sotto_common::membership::{DEFAULT_HIT_CAP, KeyStatement, PolicyProfile, Profile};
use sotto_common::selector::Policy;
use sotto_common::service::client::{ClientConfig, unary};
use sotto_common::service::tls::MAX_MESSAGE;
use sotto_common::time::Timestamp;
use sotto_proto::convert;
use sotto_proto::status::from_status;
use sotto_proto::v1;
use sotto_proto::v1::hit_service_client::HitServiceClient;
use sotto_proto::v1::membership_service_client::MembershipServiceClient;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::print::say;
use super::{Fault, Output, Result, printable};

const DAY: Duration = Duration::from_hours(24);

/// Names the client configuration; with two underscores behind it, a setting of it.
pub(super) const CLIENT_VARIABLE: &str = "SOTTO_BROKER_CLIENT";

const PROFILE_COLUMNS: [&str; 7] = [
    "policy",
    "k",
    "prior",
    "hit_cap",
    "untouched_days",
    "follow_up_days",
    "custodians",
];

#[derive(Debug, Subcommand)]
pub(super) enum CommunityCommand {
    /// Create a community and propose its profile.
    Create {
        name: String,
        /// A node that may open epochs; may be repeated.
        #[arg(long, required = true)]
        custodian: Vec<String>,
        #[command(flatten)]
        profile: ProfileArgs,
    },
    /// Replace the proposed profile; open epochs keep theirs.
    Propose {
        name: String,
        /// New custodians; none = unchanged.
        #[arg(long)]
        custodian: Vec<String>,
        #[command(flatten)]
        profile: ProfileArgs,
    },
    /// Show the proposed profile and the custodians.
    Show { name: String },
}

/// The profile that the custodian will sign; quotas and classes are set by `limits`.
#[derive(Debug, Args)]
pub(super) struct ProfileArgs {
    /// Selector types in use, e.g. `phone,iban`, or `all`.
    #[arg(long = "type", value_delimiter = ',', default_value = "all")]
    types: Vec<String>,
    /// Positions per tag, 20 to 40.
    #[arg(long, default_value_t = DEFAULT_K)]
    k: u8,
    /// Prior probability that a probed selector is held by a given holder.
    #[arg(long, default_value_t = 0.001)]
    prior: f64,
    /// Hits of one (prober, holder, type, day) beyond this are quarantined.
    #[arg(long, default_value_t = DEFAULT_HIT_CAP)]
    hit_cap: u32,
    /// Days after which a hit that nobody has touched expires.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3650))]
    untouched_days: u32,
    /// Days after its closing for which what was sealed in a follow-up is kept at the broker.
    #[arg(long, default_value_t = 180, value_parser = clap::value_parser!(u32).range(1..=3650))]
    follow_up_days: u32,
}

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Enrol nodes: their SPIFFE IDs may speak in the community from now on.
    Enrol {
        community: String,
        #[arg(required = true)]
        nodes: Vec<String>,
    },
    /// List the enrolled nodes with the fingerprints of the keys that they handed in.
    Ls { community: String },
    /// Suspend a node; the epochs that list it end at once.
    Suspend {
        community: String,
        node: String,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum LimitsCommand {
    /// Set a node's daily quota or largest class; what is not given stays.
    Set {
        community: String,
        node: String,
        /// One selector type; without it, all of the profile.
        #[arg(long = "type")]
        selector_type: Option<String>,
        /// Record refs per UTC day.
        #[arg(long)]
        daily_refs: Option<u64>,
        /// Largest capacity class, 0 to 60; class c holds 1000 · 1.25^c tags.
        #[arg(long)]
        max_class: Option<u32>,
    },
    /// Show a node's limits and what it used today.
    Show { community: String, node: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum EpochCommand {
    /// List the epochs of a community, latest first.
    Ls { community: String },
}

#[derive(Debug, Subcommand)]
pub(super) enum QuarantineCommand {
    /// Show what the flood guard holds back, in numbers.
    Ls { community: String },
    /// Release the hits of one (prober, holder, type, day).
    Release {
        community: String,
        #[arg(long)]
        prober: String,
        #[arg(long)]
        holder: String,
        #[arg(long = "type")]
        selector_type: String,
        /// The UTC day, e.g. 2026-01-31.
        #[arg(long)]
        day: String,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum HitsCommand {
    /// Show how hits fared per prober, holder, type and filter version, in numbers.
    Stats {
        community: String,
        /// Only hits first seen on this UTC day or later, e.g. 2026-01-31.
        #[arg(long)]
        since: Option<String>,
    },
}

/// The broker's services, as one operator.
pub(super) struct Client {
    channel: Channel,
    output: Output,
}

impl Client {
    pub(super) fn new(file: Option<&Path>, output: Output) -> Result<Self> {
        let file = file.ok_or_else(|| {
            format!("this command asks the broker: give --client FILE, or set {CLIENT_VARIABLE}")
        })?;
        let channel = ClientConfig::load(CLIENT_VARIABLE, file)?.channel(Role::Broker)?;
        Ok(Self { channel, output })
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    fn membership(&self) -> MembershipServiceClient<Channel> {
        MembershipServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn hit_service(&self) -> HitServiceClient<Channel> {
        HitServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(super) async fn community(&self, command: CommunityCommand) -> Result<()> {
        let mut service = self.membership();
        match command {
            CommunityCommand::Create {
                name,
                custodian,
                profile,
            } => {
                let profile = Some(profile.profile()?.into());
                let request = v1::CreateCommunityRequest {
                    community: name.clone(),
                    profile,
                    custodians: custodian,
                };
                answer(service.create_community(unary(request)).await)?;
                self.done(&format!("community {name} created"))?;
            }
            CommunityCommand::Propose {
                name,
                custodian,
                profile,
            } => {
                let profile = Some(profile.profile()?.into());
                let request = v1::ProposeProfileRequest {
                    community: name.clone(),
                    profile,
                    custodians: custodian,
                };
                answer(service.propose_profile(unary(request)).await)?;
                self.done(&format!(
                    "profile of {name} proposed; the next epoch takes it"
                ))?;
            }
            CommunityCommand::Show { name } => {
                let request = v1::GetCommunityRequest { community: name };
                let shown = answer(service.get_community(unary(request)).await)?;
                let profile = shown.proposed_profile.unwrap_or_default();
                let (custodians, cap) = (shown.custodians.join(" "), profile.hit_cap);
                let kept = profile.retention.unwrap_or_default();
                let days =
                    |kept: Option<prost_types::Duration>| kept.map_or(0, |k| k.seconds / 86_400);
                let (untouched, follow_up) = (days(kept.untouched_hits), days(kept.follow_ups));
                let rows = profile.policies.iter().map(|row| {
                    json!({"policy": row.policy, "k": row.k, "prior": row.prior,
                           "hit_cap": cap, "untouched_days": untouched,
                           "follow_up_days": follow_up,
                           "custodians": custodians})
                });
                self.print(&PROFILE_COLUMNS, rows.collect())?;
            }
        }
        Ok(())
    }

    pub(super) async fn node(&self, command: NodeCommand) -> Result<()> {
        let mut service = self.membership();
        match command {
            NodeCommand::Enrol { community, nodes } => {
                for node_id in nodes {
                    let done = format!("{node_id} enrolled in {community}");
                    let request = v1::EnrolNodeRequest {
                        community: community.clone(),
                        node_id,
                    };
                    answer(service.enrol_node(unary(request)).await)?;
                    self.done(&done)?;
                }
            }
            NodeCommand::Ls { community } => {
                let request = v1::ListNodesRequest { community };
                let listed = answer(service.list_nodes(unary(request)).await)?;
                let rows = listed.nodes.iter().map(|node| {
                    json!({"node": node.node_id, "suspended": node.suspended,
                           "enrolled": time(node.enrolled_at.as_ref()),
                           "fingerprint": fingerprint(node)})
                });
                self.print(
                    &["node", "suspended", "enrolled", "fingerprint"],
                    rows.collect(),
                )?;
            }
            NodeCommand::Suspend {
                community,
                node,
                reason,
            } => {
                let done = format!("{node} suspended in {community}");
                let request = v1::SuspendNodeRequest {
                    community,
                    node_id: node,
                    reason,
                };
                let ended = answer(service.suspend_node(unary(request)).await)?.ended_epochs;
                self.done(&format!("{done}; epochs ended: {ended:?}"))?;
            }
        }
        Ok(())
    }

    pub(super) async fn limits(&self, command: LimitsCommand) -> Result<()> {
        let mut service = self.membership();
        match command {
            LimitsCommand::Set {
                community,
                node,
                selector_type,
                daily_refs,
                max_class,
            } => {
                if daily_refs.is_none() && max_class.is_none() {
                    let text = "give --daily-refs, --max-class or both".to_owned();
                    return Err(Fault { text, code: 2 });
                }
                let policy = selector_type.as_deref().map(policy).transpose()?;
                let request = v1::SetLimitsRequest {
                    community,
                    node_id: node.clone(),
                    policy: policy.map_or_else(String::new, |policy| policy.name().to_owned()),
                    daily_refs,
                    max_class,
                };
                answer(service.set_limits(unary(request)).await)?;
                self.done(&format!("limits of {node} set"))?;
            }
            LimitsCommand::Show { community, node } => {
                let request = v1::GetLimitsRequest {
                    community,
                    node_id: node,
                };
                let shown = answer(service.get_limits(unary(request)).await)?;
                let rows = shown.limits.iter().map(|row| {
                    json!({"policy": row.policy, "daily_refs": row.daily_refs,
                           "used_today": row.used_today, "max_class": row.max_class})
                });
                let columns = ["policy", "daily_refs", "used_today", "max_class"];
                self.print(&columns, rows.collect())?;
            }
        }
        Ok(())
    }

    pub(super) async fn epoch(&self, command: EpochCommand) -> Result<()> {
        let EpochCommand::Ls { community } = command;
        let request = v1::ListEpochsRequest { community };
        let listed = answer(self.membership().list_epochs(unary(request)).await)?;
        let rows = listed.epochs.iter().map(|epoch| {
            let state = epoch.state().domain().map_or("?", |state| state.as_str());
            json!({"epoch": epoch.epoch, "state": state, "custodian": epoch.custodian,
                   "kid": hex::encode(&epoch.kid), "from": time(epoch.not_before.as_ref()),
                   "until": time(epoch.not_after.as_ref()), "members": epoch.members.join(" "),
                   "confirmed": epoch.confirmed.join(" ")})
        });
        let columns = [
            "epoch",
            "state",
            "custodian",
            "kid",
            "from",
            "until",
            "members",
            "confirmed",
        ];
        self.print(&columns, rows.collect())?;
        Ok(())
    }

    pub(super) async fn quarantine(&self, command: QuarantineCommand) -> Result<()> {
        let mut service = self.hit_service();
        match command {
            QuarantineCommand::Ls { community } => {
                let request = v1::ListQuarantineRequest { community };
                let listed = answer(service.list_quarantine(unary(request)).await)?;
                let rows = listed.groups.iter().map(|group| {
                    json!({"prober": group.prober, "holder": group.holder,
                           "policy": group.policy, "day": time(group.day.as_ref()),
                           "hits": group.hits})
                });
                self.print(
                    &["prober", "holder", "policy", "day", "hits"],
                    rows.collect(),
                )?;
            }
            QuarantineCommand::Release {
                community,
                prober,
                holder,
                selector_type,
                day,
                reason,
            } => {
                let day = date("--day", &day)?;
                let request = v1::ReleaseQuarantineRequest {
                    community,
                    prober,
                    holder,
                    policy: policy(&selector_type)?.name().to_owned(),
                    day: Some(convert::to_timestamp(day)),
                    reason,
                };
                let released = answer(service.release_quarantine(unary(request)).await)?.released;
                self.done(&format!("{released} hits released"))?;
            }
        }
        Ok(())
    }

    pub(super) async fn hits(&self, command: HitsCommand) -> Result<()> {
        let HitsCommand::Stats { community, since } = command;
        let since = since.map(|since| date("--since", &since)).transpose()?;
        let request = v1::ListHitStatisticsRequest {
            community,
            since: since.map(convert::to_timestamp),
        };
        let mut service = self.hit_service();
        let listed = answer(service.list_hit_statistics(unary(request)).await)?;
        let rows = listed.rows.iter().map(|row| {
            json!({"prober": row.prober, "holder": row.holder, "policy": row.policy,
                   "epoch": row.epoch, "version": row.filter_version, "hits": row.hits,
                   "confirmed": row.confirmed, "false": row.false_positives,
                   "retracted": row.retracted, "expired": row.expired,
                   "mean_f": row.mean_false_positive_probability})
        });
        let columns = [
            "prober",
            "holder",
            "policy",
            "epoch",
            "version",
            "hits",
            "confirmed",
            "false",
            "retracted",
            "expired",
            "mean_f",
        ];
        self.print(&columns, rows.collect())
    }

    fn done(&self, text: &str) -> Result<()> {
        match self.output {
            Output::Table | Output::Csv => say(&printable(text)),
            Output::Json => say(&json!({ "done": text })),
        }
    }

    pub(super) fn print(&self, columns: &[&str], rows: Vec<Value>) -> Result<()> {
        self.output.print(columns, rows)
    }

    pub(super) const fn output(&self) -> Output {
        self.output
    }
}

impl ProfileArgs {
    fn profile(&self) -> Result<Profile> {
        let policies = if self.types.iter().any(|name| name == "all") {
            Policy::ALL.to_vec()
        } else {
            self.types
                .iter()
                .map(|name| policy(name))
                .collect::<Result<_>>()?
        };
        let row = |policy| PolicyProfile {
            policy,
            k: self.k,
            prior: self.prior,
        };
        let mut profile = Profile::new(policies.into_iter().map(row).collect())?;
        profile.hit_cap = self.hit_cap;
        profile.retention.untouched_hits = DAY * self.untouched_days;
        profile.retention.follow_ups = DAY * self.follow_up_days;
        Ok(profile)
    }
}

/// A policy by its full name, or by its type at the present version.
fn policy(name: &str) -> Result<Policy> {
    let known = Policy::ALL.iter().copied().find(|policy| {
        policy.name() == name
            || policy
                .name()
                .split_once('/')
                .is_some_and(|(t, _)| t == name)
    });
    known.ok_or_else(|| Fault {
        text: "not a selector type of Sotto".to_owned(),
        code: 2,
    })
}

/// The first instant of a UTC day.
pub(super) fn date(option: &str, day: &str) -> Result<Timestamp> {
    Timestamp::parse_rfc3339(&format!("{day}T00:00:00Z")).ok_or_else(|| Fault {
        text: format!("{option} is a date such as 2026-01-31"),
        code: 2,
    })
}

pub(super) fn answer<T>(result: std::result::Result<Response<T>, Status>) -> Result<T> {
    let answer = result.map(Response::into_inner);
    answer.map_err(|status| refused(&status))
}

/// What the broker refused, or that it cannot be reached.
pub(super) fn refused(status: &Status) -> Fault {
    let error: Error = from_status(status);
    let code = if error.code == ErrorCode::Unavailable {
        3
    } else {
        1
    };
    Fault {
        text: error.to_string(),
        code,
    }
}

fn fingerprint(node: &v1::EnrolledNode) -> String {
    let statement = node
        .key_statement
        .as_ref()
        .and_then(|statement| convert::read_unverified::<KeyStatement>(statement).ok());
    statement.map_or_else(String::new, |s| {
        VerifyingKey::fingerprint(&s.keys.signing).to_string()
    })
}

fn time(at: Option<&prost_types::Timestamp>) -> String {
    convert::timestamp("time", at.copied()).map_or_else(|_| String::new(), |at| at.to_string())
}
