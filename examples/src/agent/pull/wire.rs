//! What goes over the wire: one question and one answer for each connection.
//!
//! | | bytes |
//! | --- | --- |
//! | question | version (1), length of the address (1: 4 or 16), the address |
//! | answer | length of the record (4, big-endian; 0: not known), the record as it was signed |

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

/// Writes an answer.
pub async fn write_answer(to: &mut (impl AsyncWrite + Unpin), record: Option<&Bytes>) -> io::Result<()> {
    let record = record.map(|record| &record[..]).unwrap_or_default();
    let len = u32::try_from(record.len()).map_err(|_| invalid("larger than any record"))?;
    to.write_all(&len.to_be_bytes()).await?;
    to.write_all(record).await?;
    to.shutdown().await
}

/// Reads an answer, of which the length is believed only as far as bytes come.
pub async fn read_answer(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
    let len = from.read_u32().await?;
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
        for record in [None, Some(Bytes::from_static(b"signed"))] {
            let mut bytes = Vec::new();
            write_answer(&mut bytes, record.as_ref()).await.expect("memory takes it");
            assert_eq!(read_answer(&mut &bytes[..]).await.expect("well-formed"), record);
            for cut in 0..bytes.len() {
                assert!(read_answer(&mut &bytes[..cut]).await.is_err());
            }
        }
    }

    #[tokio::test]
    async fn nonsense_and_giants_are_refused() {
        for question in [&[2, 4, 1, 1, 1, 1][..], &[1, 5, 1, 1, 1, 1, 1], &[0; 20]] {
            assert!(read_question(&mut &question[..]).await.is_err());
        }
        let giant = (MAX_RECORD_BYTES as u32 + 1).to_be_bytes();
        let error = read_answer(&mut &giant[..]).await.expect_err("too large");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
