//! What goes over the wire: one question and one answer for each connection.
//!
//! | | bytes |
//! | --- | --- |
//! | question | version (1), length of the address (1: 4 or 16), the address |
//! | answer | length of the slice (4, big-endian; 0: not known), the slice as it was signed; the same of its namespace, or nothing |

use std::io;
use std::net::IpAddr;

use mesh_core::Bytes;
use mesh_core::record::MAX_RECORD_BYTES;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const VERSION: u8 = 1;

/// Writes a question.
pub async fn write_question(to: &mut (impl AsyncWrite + Unpin), address: IpAddr) -> io::Result<()> {
    let mut bytes = vec![VERSION];
    match address {
        IpAddr::V4(address) => {
            bytes.push(4);
            bytes.extend(address.octets());
        }
        IpAddr::V6(address) => {
            bytes.push(16);
            bytes.extend(address.octets());
        }
    }
    to.write_all(&bytes).await
}

/// Reads a question.
pub async fn read_question(from: &mut (impl AsyncRead + Unpin)) -> io::Result<IpAddr> {
    let mut head = [0; 2];
    from.read_exact(&mut head).await?;
    match head {
        [VERSION, 4] => {
            let mut octets = [0; 4];
            from.read_exact(&mut octets).await?;
            Ok(octets.into())
        }
        [VERSION, 16] => {
            let mut octets = [0; 16];
            from.read_exact(&mut octets).await?;
            Ok(octets.into())
        }
        _ => Err(invalid("no question of this version")),
    }
}

/// What a node says of an address: the signed slice of the workload there, and the signed namespace of that, as far as it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The slice.
    pub slice: Option<Bytes>,
    /// The namespace.
    pub namespace: Option<Bytes>,
}

/// Writes an answer.
pub async fn write_answer(to: &mut (impl AsyncWrite + Unpin), said: &Said) -> io::Result<()> {
    for record in [&said.slice, &said.namespace] {
        let record = record.as_deref().unwrap_or_default();
        let len = u32::try_from(record.len()).map_err(|_| invalid("larger than any record"))?;
        to.write_all(&len.to_be_bytes()).await?;
        to.write_all(record).await?;
    }
    to.shutdown().await
}

/// Reads an answer, of which the lengths are believed only as far as bytes come. It may end after the slice.
pub async fn read_answer(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Said> {
    let len = from.read_u32().await?;
    let slice = read_record(from, len).await?;
    let mut head = Vec::new();
    (&mut *from).take(4).read_to_end(&mut head).await?;
    let namespace = match <[u8; 4]>::try_from(head) {
        Ok(len) => read_record(from, u32::from_be_bytes(len)).await?,
        Err(head) if head.is_empty() => None,
        Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
    };
    Ok(Said { slice, namespace })
}

async fn read_record(from: &mut (impl AsyncRead + Unpin), len: u32) -> io::Result<Option<Bytes>> {
    if len as usize > MAX_RECORD_BYTES {
        return Err(invalid("larger than any record"));
    }
    let mut record = Vec::new();
    from.take(len.into()).read_to_end(&mut record).await?;
    if record.len() != len as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((len > 0).then(|| record.into()))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn questions_and_answers_read_back_what_they_write() {
        for text in ["10.2.0.77", "fd00:2::77"] {
            let (address, mut bytes) = (text.parse().expect("an address"), Vec::new());
            write_question(&mut bytes, address).await.expect("memory takes it");
            assert_eq!(read_question(&mut &bytes[..]).await.expect("well-formed"), address);
            for cut in 0..bytes.len() {
                assert!(read_question(&mut &bytes[..cut]).await.is_err());
            }
        }
        let some = |text: &'static [u8]| Some(Bytes::from_static(text));
        for (slice, namespace) in [(None, None), (some(b"signed"), None), (some(b"signed"), some(b"as well"))] {
            let (said, mut bytes) = (Said { slice, namespace }, Vec::new());
            write_answer(&mut bytes, &said).await.expect("memory takes it");
            assert_eq!(read_answer(&mut &bytes[..]).await.expect("well-formed"), said);
            // Who answers may know no more than the slice.
            let slice = 4 + said.slice.as_ref().map_or(0, Bytes::len);
            for cut in (0..bytes.len()).filter(|cut| *cut != slice) {
                assert!(read_answer(&mut &bytes[..cut]).await.is_err(), "{cut}");
            }
            let short = read_answer(&mut &bytes[..slice]).await.expect("well-formed");
            assert_eq!(short, Said { namespace: None, ..said });
        }
    }

    #[tokio::test]
    async fn nonsense_and_giants_are_refused() {
        for question in [&[2, 4, 1, 1, 1, 1][..], &[1, 5, 1, 1, 1, 1, 1], &[0; 20]] {
            assert!(read_question(&mut &question[..]).await.is_err());
        }
        let giant = (MAX_RECORD_BYTES as u32 + 1).to_be_bytes();
        for giant in [giant.to_vec(), [[0; 4], giant].concat()] {
            let error = read_answer(&mut &giant[..]).await.expect_err("too large");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
