//! The audit logs over HTTPS, as tools of others read them (c2sp.org/tlog-tiles).
//!
//! Below `/<community>/`: `checkpoint`, `tile/<level>/<index>[.p/<width>]`, `tile/entries/…`. Anybody
//! may read them; an opening is in none of them.

use std::net::SocketAddr;
use std::sync::Arc;

use sotto_common::error::{Error, Result};
use sotto_common::ids::CommunityId;
use sotto_common::log::tile::TilePath;
use sotto_common::service::config::ConfigError;
use sotto_common::service::pages::{self, Page};
use sotto_common::service::tls::{ClientCertificates, Tls};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::Broker;
use crate::config::{Config, TilesConfig};

/// A full tile never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
/// A partial one neither, but for who keeps it a wider one will do.
const FOR_A_DAY: &str = "public, max-age=86400";

/// What is bound, and does not answer yet.
pub(crate) struct TileServer {
    config: TilesConfig,
    tls: Arc<Tls>,
    listener: TcpListener,
    address: SocketAddr,
}

impl TileServer {
    /// Binds, if that is configured.
    ///
    /// # Errors
    /// If the address or the files of `tls` cannot be had.
    pub(crate) async fn bind(config: &Config) -> Result<Option<Self>> {
        let Some(listen) = config.tiles.listen else {
            return Ok(None);
        };
        let unusable = |error: std::io::Error| {
            Error::internal(ConfigError::Setting(format!("tiles.listen: {error}")))
        };
        let tls = Tls::load_for(config.tls.clone(), ClientCertificates::Unasked);
        let listener = TcpListener::bind(listen).await.map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        Ok(Some(Self {
            config: config.tiles,
            tls: tls.map_err(Error::internal)?,
            listener,
            address,
        }))
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is tripped.
    pub(crate) fn start(self, broker: &Arc<Broker>, tasks: &TaskTracker, stop: &CancellationToken) {
        let Self {
            config,
            tls,
            listener,
            address,
        } = self;
        tasks.spawn(Arc::clone(&tls).keep_fresh(stop.clone()));
        let (broker, stop) = (Arc::clone(broker), stop.clone());
        tasks.spawn(async move {
            let page = move |path: String| {
                let broker = Arc::clone(&broker);
                async move { page(&broker, &path).await }
            };
            pages::serve(&tls, listener, config.connections, stop, page).await;
        });
        tracing::info!(%address, "the audit logs can be read");
    }
}

async fn page(broker: &Broker, path: &str) -> Result<Option<Page>> {
    let Some((community, wanted)) = parse(path) else {
        return Ok(None);
    };
    Ok(match wanted {
        Wanted::Checkpoint => {
            let note = broker.public_checkpoint(&community).await?;
            note.map(|note| Page {
                content_type: "text/plain; charset=utf-8",
                cache_control: "no-cache",
                body: note.into_bytes(),
            })
        }
        Wanted::Tile(path) => {
            let (TilePath::Hashes(tile) | TilePath::Entries(tile)) = path;
            let bytes = broker.public_tile(&community, path).await?;
            bytes.map(|body| Page {
                content_type: "application/octet-stream",
                cache_control: if tile.is_full() { FOR_EVER } else { FOR_A_DAY },
                body,
            })
        }
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    Checkpoint,
    Tile(TilePath),
}

/// What is asked for, of which community; `None` for a path that nothing has.
fn parse(path: &str) -> Option<(CommunityId, Wanted)> {
    let (community, rest) = path.strip_prefix('/')?.split_once('/')?;
    let wanted = match rest {
        "checkpoint" => Wanted::Checkpoint,
        tile => Wanted::Tile(tile.parse().ok()?),
    };
    Some((community.parse().ok()?, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_of_one_community_and_one_form() {
        let (community, wanted) = parse("/euro-cyber/checkpoint").expect("a checkpoint");
        assert_eq!(
            (community.as_str(), wanted),
            ("euro-cyber", Wanted::Checkpoint)
        );
        for tile in ["tile/0/000", "tile/1/x001/234.p/7", "tile/entries/000.p/1"] {
            let (_, wanted) = parse(&format!("/c/{tile}")).expect("a tile");
            assert_eq!(wanted, Wanted::Tile(tile.parse().expect("a tile")));
        }
        for none in [
            "",
            "/",
            "/checkpoint",
            "//checkpoint",
            "/Euro/checkpoint",
            "/euro-cyber/",
            "/euro-cyber/checkpoint/",
            "/euro-cyber/tile/0/0",
            "/euro-cyber/tile/0/000.p/256",
            "/euro-cyber/../euro-cyber/checkpoint",
        ] {
            assert_eq!(parse(none), None, "{none}");
        }
    }
}
