//! Fuzz target: what is read from a disk. The checksums, which guessing does not get past, are made right.

use bytes::{Bytes, BytesMut};

use crate::wire::disk::{
    decode_entry, decode_hard_state, decode_snapshot_header, encode_entry, encode_hard_state,
    encode_snapshot_header,
};

use super::format::{
    Header, Record, begin_batch, finish_batch, put_base, put_entry, put_hard_state, put_seal, read_batch,
    read_sector, write_sectors,
};

/// Any bytes as a batch, a header, and each of the messages in them.
pub fn records(data: &[u8]) {
    batch(data);
    header(data);
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(entry) = decode_entry(bytes.clone()) {
        let mut out = BytesMut::new();
        encode_entry(&entry, &mut out);
        assert_eq!(decode_entry(out.freeze()), Ok(entry));
    }
    if let Ok(hard_state) = decode_hard_state(bytes.clone()) {
        let mut out = BytesMut::new();
        encode_hard_state(&hard_state, &mut out);
        assert_eq!(decode_hard_state(out.freeze()), Ok(hard_state));
    }
    if let Ok(header) = decode_snapshot_header(bytes) {
        let mut out = BytesMut::new();
        encode_snapshot_header(&header, &mut out);
        assert_eq!(decode_snapshot_header(out.freeze()), Ok(header));
    }
}

/// The records that are read are those that are read again once they are written.
fn batch(data: &[u8]) {
    let Ok(records) = read_batch(Bytes::copy_from_slice(data)) else {
        return;
    };
    let mut out = BytesMut::new();
    begin_batch(&mut out);
    for record in &records {
        match record {
            Record::HardState(hard_state) => put_hard_state(hard_state, &mut out),
            Record::Entry(entry) => put_entry(entry, &mut out),
            Record::Seal(next) => put_seal(*next, &mut out),
            Record::Base(base) => put_base(*base, &mut out),
        }
    }
    finish_batch(&mut out);
    assert_eq!(read_batch(out.freeze()), Ok(records));
}

/// The bytes as the sectors of a batch, the first of which may be a header.
fn header(data: &[u8]) {
    let mut sectors = Vec::new();
    write_sectors(data, 1, 0, 1, &mut sectors);
    let (sectors, _) = sectors.as_chunks();
    for (number, sector) in (0..).zip(sectors) {
        read_sector(sector, 1, number);
    }
    let Some(Ok(header)) = sectors.first().map(|sector| Header::read(sector, 1)) else {
        return;
    };
    let written = header.write(1);
    let (written, _) = written.as_chunks();
    let again = written.first().map(|sector| Header::read(sector, 1));
    assert_eq!(again, Some(Ok(header)));
}

#[cfg(test)]
mod tests {
    use crate::base::fuzzing::play;

    #[test]
    fn cases_of_records() {
        play(
            include_str!("../../fuzz/cases/records.txt"),
            20_000,
            super::records,
        );
    }
}
