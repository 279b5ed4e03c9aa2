//! PostgreSQL's in-band way into TLS (its protocol documentation, "SSL Session Encryption"): eight bytes that ask, one that
//! answers, and then TLS as everywhere. Any other client begins with TLS at once and is left alone.

use std::{io, pin::Pin};

use futures::{
    AsyncReadExt, AsyncWriteExt,
    io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite},
};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

/// Answers the requests that come before TLS, of which a client makes two at most: Kerberos no, TLS yes.
pub async fn answer(io: &mut (impl AsyncBufRead + AsyncWrite + Unpin)) -> io::Result<()> {
    for _ in 0..2 {
        // A length begins with zero; TLS begins with the type of its first record, which is never zero.
        if Pin::new(&mut *io).fill_buf().await?.first() != Some(&0) {
            return Ok(());
        }
        let mut request = [0; 8];
        io.read_exact(&mut request).await?;
        let answer = match request {
            SSL_REQUEST => b"S",
            GSS_REQUEST => b"N",
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "neither TLS nor a request for it")),
        };
        io.write_all(answer).await?;
        io.flush().await?;
        if request == SSL_REQUEST {
            return Ok(());
        }
    }
    Ok(())
}
