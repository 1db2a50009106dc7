//! `followup files`: what is at the node for an answer, and what of it need not be sent again.

use clap::Args;
use sotto_common::ids::{AttachmentId, FollowUpId};
use sotto_proto::v1;

use super::files::Outgoing;
use super::{bytes, shown};
use crate::cli::Context;
use crate::cli::client::{Client, unary};
use crate::cli::fault::{Fault, Result};
use crate::cli::hits::filters::WhyArgs;
use crate::cli::render::{Cell, List};

/// Which files to list, and which to remove.
#[derive(Args, Debug)]
pub(crate) struct FilesArgs {
    /// The follow-up
    #[arg(value_name = "FOLLOW_UP")]
    id: FollowUpId,
    /// Remove this file first; only until the answer is approved
    #[arg(long, value_name = "ATTACHMENT")]
    remove: Option<AttachmentId>,
    #[command(flatten)]
    why: WhyArgs,
}

const FILE: &[&str] = &["attachment", "name", "size", "sha256", "at_broker", "state"];

/// Where a file is, and what to do if it is nowhere.
const fn state(file: &v1::NodeFollowUpAttachment) -> &'static str {
    if file.bytes_missing {
        "bytes missing: attach again"
    } else if file.at_broker {
        "at the broker"
    } else {
        "at the node"
    }
}

fn cells(file: &v1::NodeFollowUpAttachment) -> Vec<Cell> {
    let digest = (!file.sha256.is_empty()).then(|| hex::encode(&file.sha256));
    vec![
        Cell::new(shown::attachment_id(&file.attachment_id)),
        Cell::new(file.name.as_str()),
        Cell::new(file.size),
        Cell::new(digest),
        Cell::new(file.at_broker),
        Cell::new(state(file)),
    ]
}

/// Removes a file, if one is named, and lists those that are there.
pub(super) async fn run(context: &Context, client: &Client, args: &FilesArgs) -> Result<()> {
    if let Some(file) = args.remove {
        let request = v1::RemoveFollowUpAttachmentRequest {
            follow_up_id: bytes(args.id),
            attachment_id: file.as_bytes().to_vec().into(),
        };
        let mut analyst = client.analyst();
        analyst.remove_follow_up_attachment(unary(request)).await?;
        context.note(&format!(
            "{file} is removed; an answer that waits for approval is a new proposal without it"
        ));
    }
    let files = list(client, args.id, &args.why.why).await?;
    let mut rows = List::new(context.output, FILE, context.stdout())?;
    for file in &files.attachments {
        rows.row(&cells(file))?;
    }
    rows.finish()?;
    for file in &files.unfinished {
        context.note(&format!(
            "{} broke off after {} of {} bytes: the same `followup answer` goes on from there",
            file.name, file.acknowledged, file.size
        ));
    }
    Ok(())
}

/// The files that are at the node for an answer, and those that broke off on their way there.
pub(super) async fn list(
    client: &Client,
    id: FollowUpId,
    why: &str,
) -> Result<v1::ListFollowUpAttachmentsResponse> {
    let request = v1::ListFollowUpAttachmentsRequest {
        follow_up_id: bytes(id),
        why: why.to_owned(),
    };
    let mut analyst = client.analyst();
    let answer = analyst.list_follow_up_attachments(unary(request)).await?;
    Ok(answer.into_inner())
}

/// How many bytes of a file of this content the node has of an earlier try; 0 of any other.
pub(super) fn acknowledged(
    unfinished: &[v1::UnfinishedAttachment],
    file: &Outgoing,
    digest: &[u8; 32],
) -> u64 {
    let is_same = |known: &&v1::UnfinishedAttachment| {
        known.name == file.name && known.size == file.size && known.sha256[..] == digest[..]
    };
    let same = unfinished.iter().find(is_same);
    same.map_or(0, |known| known.acknowledged.min(file.size))
}

/// What a file that is to go is to those that are at the node.
#[derive(PartialEq, Debug)]
enum Place<'a> {
    /// None of them has its name.
    New,
    /// This one is the same.
    There(&'a v1::NodeFollowUpAttachment),
    /// This one has its name, and none of that name is the same.
    Taken(&'a v1::NodeFollowUpAttachment),
}

fn place<'a>(at_node: &'a [v1::NodeFollowUpAttachment], file: &Outgoing) -> Result<Place<'a>> {
    // One whose bytes are missing gives its place to what is sent.
    let namesakes = at_node
        .iter()
        .filter(|known| known.name == file.name && !known.bytes_missing);
    let namesakes: Vec<_> = namesakes.collect();
    let Some(&first) = namesakes.first() else {
        return Ok(Place::New);
    };
    // Only what may be the same is read for its digest.
    if namesakes.iter().all(|known| known.size != file.size) {
        return Ok(Place::Taken(first));
    }
    let digest = file.digest()?;
    let is_same = |known: &&v1::NodeFollowUpAttachment| {
        known.size == file.size && known.sha256[..] == digest[..]
    };
    let same = namesakes.into_iter().find(is_same);
    Ok(same.map_or(Place::Taken(first), Place::There))
}

/// The files that are not at the node yet. All are compared before the first is sent.
///
/// # Errors
/// Which file has the name of another one, or cannot be read.
pub(super) fn missing(
    context: &Context,
    id: FollowUpId,
    at_node: &[v1::NodeFollowUpAttachment],
    files: Vec<Outgoing>,
) -> Result<Vec<Outgoing>> {
    let named = |known: &v1::NodeFollowUpAttachment| {
        let attachment = shown::attachment_id(&known.attachment_id);
        (known.name.clone(), attachment)
    };
    let is_chosen =
        |known: &&v1::NodeFollowUpAttachment| files.iter().any(|file| file.name == known.name);
    for other in at_node.iter().filter(|known| !is_chosen(known)) {
        let (name, attachment) = named(other);
        context.note(&if other.bytes_missing {
            format!("the bytes of {name}, given before as {attachment}, are missing at the node")
        } else {
            format!("{name} was given before, as {attachment}, and goes with the answer as well")
        });
    }
    let mut missing = Vec::new();
    for file in files {
        match place(at_node, &file)? {
            Place::New => missing.push(file),
            Place::There(known) => {
                let (name, attachment) = named(known);
                context.note(&format!("{name} is at the node already, as {attachment}"));
            }
            Place::Taken(known) => {
                let (name, attachment) = named(known);
                return Err(Fault::with_hint(
                    format!("another file named {name} is at the node, as {attachment}"),
                    format!(
                        "`sotto-node followup files {id} --remove {attachment}` removes it; else \
                         give the file another name"
                    ),
                ));
            }
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::super::files::open_all;
    use super::*;

    fn known(name: &str, content: &[u8]) -> v1::NodeFollowUpAttachment {
        v1::NodeFollowUpAttachment {
            name: name.into(),
            size: content.len() as u64,
            sha256: Sha256::digest(content).to_vec().into(),
            ..Default::default()
        }
    }

    #[test]
    fn only_name_size_and_content_together_make_a_file_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.txt");
        std::fs::write(&path, "content").expect("written");
        let opened = open_all(&[path]).expect("opened");
        let at_node = [
            known("b.txt", b"content"),
            known("a.txt", b"context"),
            known("a.txt", b"longer content"),
            known("a.txt", b"content"),
        ];
        let file = &opened[0];
        assert_eq!(place(&[], file).expect("read"), Place::New);
        assert_eq!(place(&at_node[..1], file).expect("read"), Place::New);
        for others in [&at_node[..2], &at_node[2..3], &at_node[..3]] {
            let placed = place(others, file).expect("read");
            assert!(matches!(placed, Place::Taken(known) if known.name == "a.txt"));
        }
        let placed = place(&at_node, file).expect("read");
        assert_eq!(placed, Place::There(&at_node[3]));
        // Of a file of an earlier version nobody knows what it is.
        let mut older = at_node[3].clone();
        older.sha256.clear();
        let older = [older];
        assert_eq!(place(&older, file).expect("read"), Place::Taken(&older[0]));
        // What the node has lost is sent again, by whatever content.
        for mut lost in [at_node[3].clone(), at_node[1].clone()] {
            lost.bytes_missing = true;
            assert_eq!(place(&[lost], file).expect("read"), Place::New);
        }
    }

    #[test]
    fn only_a_file_of_the_same_content_goes_on_where_one_broke_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.txt");
        std::fs::write(&path, "content").expect("written");
        let opened = open_all(&[path]).expect("opened");
        let (file, digest) = (&opened[0], opened[0].digest().expect("read"));
        let broke_off = |name: &str, content: &[u8], acknowledged| v1::UnfinishedAttachment {
            name: name.into(),
            size: content.len() as u64,
            sha256: Sha256::digest(content).to_vec().into(),
            acknowledged,
        };
        let others = [
            broke_off("b.txt", b"content", 3),
            broke_off("a.txt", b"context", 3),
        ];
        assert_eq!(acknowledged(&others, file, &digest), 0);
        let same = [broke_off("a.txt", b"content", 3)];
        assert_eq!(acknowledged(&same, file, &digest), 3);
        let beyond = [broke_off("a.txt", b"content", 9)];
        assert_eq!(acknowledged(&beyond, file, &digest), 7);
    }

    #[test]
    fn a_file_is_somewhere_or_to_be_attached_again() {
        let mut file = known("a.txt", b"content");
        assert_eq!(state(&file), "at the node");
        file.at_broker = true;
        assert_eq!(state(&file), "at the broker");
        (file.at_broker, file.bytes_missing) = (false, true);
        assert_eq!(state(&file), "bytes missing: attach again");
    }

    #[test]
    fn a_file_has_a_cell_for_every_column() {
        let row = cells(&known("a\u{1b}[2J", b""));
        assert_eq!(row.len(), FILE.len());
        assert_eq!(row[1].shown(), "a\u{fffd}[2J");
        assert!(row[3].shown().starts_with("e3b0c442"));
    }
}
