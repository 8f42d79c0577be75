//! The XML of block lists and of blob storage's errors.
//!
//! Reading is tolerant: whatever is no block list gives what could be read before it went wrong, or nothing. Source:
//! contract/blob-upload.md, sections 4.3, 4.4 and 10.

use quick_xml::{Reader, events::Event};

/// One block as the service lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The id, base64.
    pub id: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Get Block List, read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockList {
    /// What the blob is made of, in order.
    pub committed: Vec<Listed>,
    /// What is staged.
    pub uncommitted: Vec<Listed>,
}

/// Blocks of both kinds that the service can hold (blob-upload 6).
const MAX_LISTED: usize = 150_000;

/// Reads the answer of Get Block List; `None` when it is none.
#[must_use]
pub fn read(xml: &str) -> Option<BlockList> {
    let mut list = BlockList::default();
    let mut path: Vec<String> = Vec::new();
    let (mut id, mut size) = (None::<String>, None::<u64>);
    let mut is_list = false;
    let mut reader = Reader::from_str(xml.trim_start_matches('\u{feff}'));
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) if path.len() < 8 => {
                path.push(tag.local_name().into_inner().to_owned());
                is_list |= path.len() == 1 && path.iter().any(|name| name == "BlockList");
            }
            Event::Empty(tag) if path.is_empty() => is_list = tag.local_name().into_inner() == "BlockList",
            Event::Text(text) => match path.last().map(String::as_str) {
                Some("Name") => id = Some(text.trim().to_owned()),
                Some("Size") => size = text.trim().parse().ok(),
                _ => {}
            },
            Event::End(_) => {
                if path.pop().as_deref() == Some("Block") {
                    let block = Listed { id: id.take()?, size: size.take()? };
                    match path.last().map(String::as_str) {
                        Some("CommittedBlocks") => list.committed.push(block),
                        Some("UncommittedBlocks") => list.uncommitted.push(block),
                        _ => {}
                    }
                    if list.committed.len() + list.uncommitted.len() > MAX_LISTED {
                        return None;
                    }
                }
            }
            Event::Start(_) => return None,
            Event::Eof => return (is_list && path.is_empty()).then_some(list),
            _ => {}
        }
    }
}

/// The body of Put Block List: every element `Latest`, in file order.
#[must_use]
pub fn write(ids: &[String]) -> String {
    let mut xml = String::with_capacity(64 + ids.len() * 60);
    xml.push_str("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
    for id in ids {
        xml.push_str("<Latest>");
        xml.push_str(id);
        xml.push_str("</Latest>");
    }
    xml.push_str("</BlockList>");
    xml
}

/// The code in an error body, when it is one.
#[must_use]
pub fn error_code(xml: &str) -> Option<String> {
    let mut reader = Reader::from_str(xml.trim_start_matches('\u{feff}'));
    let mut is_code = false;
    for _ in 0..64 {
        match reader.read_event().ok()? {
            Event::Start(tag) => is_code = tag.local_name().into_inner() == "Code",
            Event::Text(text) if is_code => return Some(text.trim().to_owned()),
            Event::Eof => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAGED: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList><CommittedBlocks /><UncommittedBlocks>\
        <Block><Name>ZzAtN2YzYzlhMjBkNGUxNWI2OC0wMDAwMDAwMA==</Name><Size>5</Size></Block></UncommittedBlocks></BlockList>";

    #[test]
    fn the_contracts_list_reads_as_the_contract_says() {
        let block = Listed { id: "ZzAtN2YzYzlhMjBkNGUxNWI2OC0wMDAwMDAwMA==".to_owned(), size: 5 };
        assert_eq!(read(STAGED), Some(BlockList { committed: vec![], uncommitted: vec![block] }));
        assert_eq!(read("<BlockList/>"), Some(BlockList::default()));
    }

    #[test]
    fn the_commit_is_byte_for_byte_that_of_the_contract() {
        let ids = [
            "ZzAtN2YzYzlhMjBkNGUxNWI2OC0wMDAwMDAwMA==".to_owned(),
            "ZzAtN2YzYzlhMjBkNGUxNWI2OC0wMDAwMDAwMQ==".to_owned(),
        ];
        let xml = write(&ids);
        let contract = include_str!("../../tests/contract/blob-upload.md");
        assert!(contract.contains(&xml), "{xml}");
        assert_eq!(super::super::package_file::md5_of(xml.as_bytes()), "KcknmDYZZgUVWAcnxN0dKw==");
    }

    #[test]
    fn what_is_no_list_is_not_read_as_an_empty_one() {
        for bad in ["", "<html></html>", "<BlockList>", "<Error><Code>x</Code></Error>", "{}"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        let no_size = "<BlockList><UncommittedBlocks><Block><Name>x</Name></Block></UncommittedBlocks></BlockList>";
        assert_eq!(read(no_size), None);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,200}", cut in 0_usize..300) {
            let _ = (read(&text), error_code(&text));
            let _ = read(STAGED.get(..cut.min(STAGED.len())).unwrap());
        }
    }
}
