//! The audit log as an auditor has it: exported, and verified without believing the broker.

use sotto_broker::audit::export::{ExportError, ExportWriter, HeadParts};
use sotto_broker::audit::verify::{Summary, verify_export};
use sotto_broker::config::default_log_name;
use sotto_common::ids::Role;
use sotto_common::log::checkpoint::LogKey;
use sotto_common::log::origin::LogOrigin;
use sotto_common::service::config::SecretFile;
use sotto_common::service::key_file;
use sotto_proto::v1::ExportEntriesRequest;
use sotto_proto::v1::audit_service_client::AuditServiceClient;

use crate::{COMMUNITY, Lab};

/// The key by which the log of [`COMMUNITY`] is verified, from the broker's own file.
pub fn log_key(file: &SecretFile) -> LogKey {
    let signing = key_file::read(file).expect("a key");
    let origin = LogOrigin::new(default_log_name(), COMMUNITY.parse().expect("a community"));
    LogKey::new(origin, signing.expect("made").verifying_key())
}

/// The log up to the latest checkpoint of a broker, as `audit export` writes it.
///
/// # Errors
/// If the broker leaves something out.
pub async fn export(lab: &Lab, broker: &str) -> Result<Vec<u8>, ExportError> {
    let request = ExportEntriesRequest {
        community: COMMUNITY.into(),
        from_index: 0,
    };
    let mut auditor = AuditServiceClient::new(lab.channel(Role::Auditor, "court", broker));
    let messages = auditor.export_entries(request).await.expect("exported");
    let mut messages = messages.into_inner();
    let first = messages.message().await.expect("whole").expect("a head");
    let mut parts = HeadParts::begin(first).expect("a head");
    let head = loop {
        match parts.whole() {
            Ok(head) => break head,
            Err(part) => parts = part,
        }
        let more = messages.message().await.expect("whole");
        parts.add(more.expect("manifests")).expect("manifests");
    };
    let mut writer = ExportWriter::begin(Vec::new(), head)?;
    while let Some(message) = messages.message().await.expect("whole") {
        for entry in message.entries {
            writer.put(entry)?;
        }
    }
    Ok(writer.into_inner())
}

/// What an honest broker has written holds, whatever happened to it meanwhile.
pub async fn assert_holds(lab: &Lab, broker: &str, key: &LogKey) -> Summary {
    let file = export(lab, broker).await.expect("exported");
    let verified = verify_export(&file[..], key, false);
    verified.unwrap_or_else(|failure| panic!("an honest log does not hold: {failure}"))
}
