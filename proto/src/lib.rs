//! The wire of Sotto and nothing else: messages and services of `sotto/v1/*.proto`, their
//! conversion to and from the domain ([`convert`]), and the one table from error to gRPC status
//! ([`status`]).

/// Package `sotto.v1`, generated at build.
#[expect(
    clippy::pedantic,
    clippy::large_enum_variant,
    reason = "generated; documented in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("sotto.v1");
}

/// Everything of `sotto/v1/*.proto`, for the reflection service.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/sotto_descriptor.bin"));

pub mod convert;
pub mod status;
