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
    let mut reader = Reader::from_str(xml.trim_start_matches('\u{feff}'));
    let mut reading = Reading::default();
    loop {
        let event = reader.read_event().ok()?;
        if let Event::Start(tag) = event {
            reading.open(tag.local_name().into_inner())?;
        } else if let Event::Empty(tag) = event {
            reading.open(tag.local_name().into_inner())?;
            reading.close()?;
        } else if let Event::Text(text) = event {
            reading.text(text.trim());
        } else if let Event::End(_) = event {
            reading.close()?;
        } else if let Event::Eof = event {
            return (reading.is_list && reading.path.is_empty()).then_some(reading.list);
        }
    }
}

#[derive(Default)]
struct Reading {
    list: BlockList,
    is_list: bool,
    path: Vec<String>,
    id: Option<String>,
    size: Option<u64>,
}

impl Reading {
    fn open(&mut self, name: &str) -> Option<()> {
        if self.path.len() >= 8 {
            return None;
        }
        self.is_list |= self.path.is_empty() && name == "BlockList";
        self.path.push(name.to_owned());
        Some(())
    }

    fn text(&mut self, text: &str) {
        match self.path.last().map(String::as_str) {
            Some("Name") => self.id = Some(text.to_owned()),
            Some("Size") => self.size = text.parse().ok(),
            _ => {}
        }
    }

    fn close(&mut self) -> Option<()> {
        if self.path.pop()? != "Block" {
            return Some(());
        }
        let block = Listed { id: self.id.take()?, size: self.size.take()? };
        match self.path.last().map(String::as_str) {
            Some("CommittedBlocks") => self.list.committed.push(block),
            Some("UncommittedBlocks") => self.list.uncommitted.push(block),
            _ => {}
        }
        (self.list.committed.len() + self.list.uncommitted.len() <= MAX_LISTED).then_some(())
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
        let event = reader.read_event().ok()?;
        if let Event::Text(text) = &event
            && is_code
        {
            return Some(text.trim().to_owned());
        }
        if let Event::Start(tag) = &event {
            is_code = tag.local_name().into_inner() == "Code";
        } else if event == Event::Eof {
            return None;
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
            let _survived = (read(&text), error_code(&text));
            let _survived = read(STAGED.get(..cut.min(STAGED.len())).unwrap());
        }
    }
}
