use std::{fs, sync::LazyLock};

use proptest::prelude::*;

use super::*;

pub(crate) fn cab_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.cab");
    let files =
        files.iter().map(|(path, content)| NewFile { path: (*path).to_owned(), content: Box::new(*content) }).collect();
    write(files, &path).unwrap();
    fs::read(&path).unwrap()
}

fn read_all(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let cabinet = Cabinet::open(file.path())?;
    let all = cabinet.read_files(u64::MAX, |_| true)?;
    Ok(all.into_iter().map(|(index, content)| (cabinet.entries()[index].path.clone(), content)).collect())
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn what_was_written_is_read_again_across_blocks_and_files() {
    let large = noise(200_001);
    let files: [(&str, &[u8]); 4] = [
        ("nic/nic.inf", b"[Version]\r\n"),
        ("nic/empty.txt", b""),
        ("nic/amd64/nic.sys", &large),
        ("nic/é.pdb", b"pdb"),
    ];
    let all = read_all(&cab_of(&files)).unwrap();
    assert_eq!(all, files.map(|(path, content)| (path.to_owned(), content.to_vec())));
}

#[test]
fn the_same_files_make_the_same_bytes() {
    let files: [(&str, &[u8]); 2] = [("a/a.inf", b"one"), ("a/b.sys", b"two")];
    assert_eq!(cab_of(&files), cab_of(&files));
}

#[test]
fn a_package_of_8_mib_is_written_from_a_stream() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big.cab");
    let content = noise(1 << 20);
    let stream = content.as_slice().chain(content.as_slice()).take(2 << 20);
    let files = vec![
        NewFile { path: "big/big.sys".into(), content: Box::new(stream) },
        NewFile { path: "big/big.inf".into(), content: Box::new(&b"[Version]"[..]) },
    ];
    write(files, &path).unwrap();
    let cabinet = Cabinet::open(&path).unwrap();
    let mut size = 0;
    cabinet.read(|index, piece| size += if index == 0 { piece.len() } else { 0 }).unwrap();
    assert_eq!(size, 2 << 20);
    assert!(!cabinet.is_signed());
}

#[test]
fn cabinets_of_other_tools_are_read() {
    // From the documentation of the cab crate: stored, two blocks.
    let stored: &[u8] = b"MSCF\0\0\0\0\x61\0\0\0\0\0\0\0\x2c\0\0\0\0\0\0\0\x03\x01\x01\0\x01\0\0\0\x34\x12\0\0\
        \x43\0\0\0\x02\0\0\0\x0e\0\0\0\0\0\0\0\0\0\x6c\x22\xba\x59\x01\0hi.txt\0\
        \0\0\0\0\x06\0\x06\0Hello,\0\0\0\0\x08\0\x08\0 world!\n";
    assert_eq!(read_all(stored).unwrap(), [("hi.txt".to_owned(), b"Hello, world!\n".to_vec())]);
    // LZX, two files.
    let lzx: &[u8] = b"\x4d\x53\x43\x46\x00\x00\x00\x00\x97\x00\x00\x00\x00\x00\x00\
        \x00\x2c\x00\x00\x00\x00\x00\x00\x00\x03\x01\x01\x00\x02\x00\
        \x00\x00\x2d\x05\x00\x00\x5b\x00\x00\x00\x01\x00\x03\x13\x0f\
        \x00\x00\x00\x00\x00\x00\x00\x00\x00\x21\x53\x0d\xb2\x20\x00\
        \x68\x69\x2e\x74\x78\x74\x00\x10\x00\x00\x00\x0f\x00\x00\x00\
        \x00\x00\x21\x53\x0b\xb2\x20\x00\x62\x79\x65\x2e\x74\x78\x74\
        \x00\x5c\xef\x2a\xc7\x34\x00\x1f\x00\x5b\x80\x80\x8d\x00\x30\
        \xf0\x01\x10\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x48\
        \x65\x6c\x6c\x6f\x2c\x20\x77\x6f\x72\x6c\x64\x21\x0d\x0a\x53\
        \x65\x65\x20\x79\x6f\x75\x20\x6c\x61\x74\x65\x72\x21\x0d\x0a\
        \x00";
    let all = read_all(lzx).unwrap();
    assert_eq!(all[1], ("bye.txt".to_owned(), b"See you later!\r\n".to_vec()));
}

#[test]
fn a_signature_behind_the_cabinet_is_seen() {
    let mut bytes = cab_of(&[("a/a.inf", b"x")]);
    bytes.extend([0; 64]);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &bytes).unwrap();
    assert!(Cabinet::open(file.path()).unwrap().is_signed());
    assert!(read_all(&bytes).is_ok());
}

/// A header that says whatever a test wants, with no data behind it.
fn header(total: u32, folders: u16, files: u16, flags: u16) -> Vec<u8> {
    let mut bytes = b"MSCF\0\0\0\0".to_vec();
    bytes.extend(total.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(36_u32.to_le_bytes());
    bytes.extend([0, 0, 0, 0, 3, 1]);
    for word in [folders, files, flags, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

#[test]
fn impossible_tables_are_refused_with_their_reason() {
    let good = cab_of(&[("a/a.inf", &noise(40_000)), ("a/b.sys", b"x")]);
    let damage = |at: usize, bytes: &[u8]| {
        let mut damaged = good.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        damaged
    };
    // The offset of the first file, within its folder: the crate by itself panics on this one.
    let file_at = usize::from(good[16]);
    for (bytes, why) in [
        (b"MSC".to_vec(), "ends too early"),
        (b"PK\x03\x04".repeat(20), "not a cabinet"),
        (good[..good.len() - 1].to_vec(), "cut off"),
        (header(36, 0, 0, 1), "set of cabinets"),
        (header(36, 0, 1, 0), "no folder"),
        (header(36, 0, 10_001, 0), "at most 10000"),
        (header(36, 1, 0, 0), "ends too early"),
        (damage(25, &[9]), "version"),
        (damage(file_at + 4, &[0xff, 0xff, 0xff, 0x00]), "behind the end of its data"),
        (damage(file_at, &[0xff, 0xff, 0xff, 0x7f]), "behind the end of its data"),
        (damage(file_at + 8, &[7, 0]), "not there"),
        (damage(file_at + 8, &[0xfe, 0xff]), "not there"),
        (damage(36 + 4, &[1, 0]), "behind the end of its data"),
        (damage(36 + 6, &[2, 0]), "Quantum"),
        (damage(36, &[0xff, 0xff, 0xff, 0x7f]), "points behind its end"),
        (damage(16, &[0xff, 0xff, 0xff, 0x7f]), "points behind its end"),
    ] {
        let error = read_all(&bytes).unwrap_err().to_string();
        assert!(error.contains(why), "wanted {why:?}, found {error:?}");
    }
    let last = good.len() - 10;
    assert!(read_all(&damage(last, &[good[last] ^ 1])).unwrap_err().to_string().contains("damaged"));
}

#[test]
fn folders_that_share_their_data_do_not_multiply_it_without_end() {
    let mut bytes = header(0, 0xffff, 0, 0);
    let data_at = u32::try_from(36 + 8 * 0xffff).unwrap();
    for _ in 0..0xffff {
        bytes.extend(data_at.to_le_bytes());
        bytes.extend([0xff, 0xff, 0, 0]);
    }
    bytes.extend([0; 100]);
    let total = u32::try_from(bytes.len()).unwrap().to_le_bytes();
    bytes[8..12].copy_from_slice(&total);
    assert!(matches!(read_all(&bytes), Err(Error::TooLarge(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn damaged_cabinets_are_survived(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
            cab_of(&[("nic/nic.inf", b"[Version]\r\nClass=Net\r\n"), ("nic/nic.sys", &noise(300))])
        });
        let mut bytes = GOOD.clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _survived = read_all(&bytes);
    }

    #[test]
    fn damaged_tables_are_survived(changes in prop::collection::vec((0_usize..110, any::<u8>()), 1..4), cut in 0_usize..40) {
        static GOOD: LazyLock<Vec<u8>> =
            LazyLock::new(|| cab_of(&[("nic/nic.inf", b"[Version]\r\n"), ("nic/nic.sys", &[1; 70_000])]));
        let mut bytes = GOOD.clone();
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes.truncate(bytes.len() - cut);
        let _survived = read_all(&bytes);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _survived = read_all(&bytes);
        let mut marked = header(u32::try_from(36 + bytes.len()).unwrap(), 1, 1, 0);
        marked.extend(bytes);
        let _survived = read_all(&marked);
    }
}
