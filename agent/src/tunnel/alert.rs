//! Fatal alerts of TLS, for clients that get no session: they are told why, and not only cut off.

use std::{io, time::Duration};

use futures::io::{AsyncRead, AsyncReadExt};

use crate::time::within;

/// A fatal alert as a record of its own (RFC 8446, sections 5.1 and 6).
pub type Alert = [u8; 7];

/// The client's first message is not understood.
pub const DECODE_ERROR: Alert = [21, 3, 3, 0, 2, 2, 50];
/// What is lacking is nothing that the client could change.
pub const INTERNAL_ERROR: Alert = [21, 3, 3, 0, 2, 2, 80];
/// Nobody here has the name that the client asks for.
pub const UNRECOGNIZED_NAME: Alert = [21, 3, 3, 0, 2, 2, 112];

/// For a client to take the alert and go.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most bytes that are taken from it meanwhile.
const MOST: usize = 32 * 1024;

/// Takes what the client sent and still sends after its alert and this side's end, until it goes: an unread byte would
/// turn the end into a reset, which may overtake the alert.
pub async fn part(mut client: impl AsyncRead + Unpin) {
    let drained = async {
        let (mut sink, mut taken) = ([0; 2048], 0);
        while taken < MOST {
            match client.read(&mut sink).await? {
                0 => break,
                len => taken += len,
            }
        }
        io::Result::Ok(())
    };
    // Whoever stays has had the time to read it, and one that is gone needs none.
    let _ = within(PATIENCE, drained).await;
}
