//! INF files, as far as a preflight needs them: sections, `[Version]`, and for which processors they have models.
//!
//! Source of the format: Microsoft's "General Syntax Rules for INF Files" and "INF Manufacturer Section".

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A processor that a driver is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Architecture {
    /// 32-bit Intel; what an undecorated section stands for.
    X86,
    /// 64-bit Intel and AMD.
    Amd64,
    /// 32-bit ARM.
    Arm,
    /// 64-bit ARM.
    Arm64,
    /// Itanium.
    Ia64,
}

impl Architecture {
    /// The processor of a decoration such as `NTamd64.10.0...22000`; `None` for words that are no decoration.
    #[must_use]
    pub fn of_decoration(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let rest = text.strip_prefix("nt")?;
        match rest.split('.').next().unwrap_or_default() {
            "" | "x86" => Some(Self::X86),
            "amd64" => Some(Self::Amd64),
            "arm" => Some(Self::Arm),
            "arm64" => Some(Self::Arm64),
            "ia64" => Some(Self::Ia64),
            _ => None,
        }
    }

    /// The processor of an OS code such as `WINDOWS_v100_X64_CO_FULL`.
    #[must_use]
    pub fn of_os_code(code: &str) -> Self {
        let has = |word: &str| code.split('_').any(|part| part.eq_ignore_ascii_case(word));
        if has("ARM64") {
            Self::Arm64
        } else if has("ARM") {
            Self::Arm
        } else if has("IA64") {
            Self::Ia64
        } else if has("X64") {
            Self::Amd64
        } else {
            Self::X86
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86 => "NTx86",
            Self::Amd64 => "NTamd64",
            Self::Arm => "NTarm",
            Self::Arm64 => "NTarm64",
            Self::Ia64 => "NTia64",
        })
    }
}

/// An INF file, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inf {
    /// Entries by section, names in lower case.
    sections: BTreeMap<String, Vec<(String, String)>>,
}

impl Inf {
    /// Reads the text: UTF-16 and UTF-8 by their marks, else UTF-8, else the Western code page.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        let mut sections: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        let mut current: Option<String> = None;
        let text = decode(bytes).replace("\r\n", "\n");
        let mut joined = String::new();
        for line in text.split(['\n', '\r']) {
            joined.push_str(without_comment(line).trim());
            if joined.ends_with('\\') {
                joined.pop();
                continue;
            }
            let line = std::mem::take(&mut joined);
            if let Some(name) = line.strip_prefix('[') {
                let name = name.split(']').next().unwrap_or_default().trim().to_lowercase();
                sections.entry(name.clone()).or_default();
                current = Some(name);
            } else if let Some(section) = current.as_ref().filter(|_| !line.is_empty()) {
                let (key, value) = line.split_once('=').unwrap_or((line.as_str(), ""));
                if let Some(entries) = sections.get_mut(section) {
                    entries.push((key.trim().to_lowercase(), value.trim().to_owned()));
                }
            }
        }
        Self { sections }
    }

    /// Is this section there?
    #[must_use]
    pub fn has_section(&self, name: &str) -> bool {
        self.sections.contains_key(&name.to_lowercase())
    }

    /// The first value of a key, strings put in, quotes removed.
    #[must_use]
    pub fn value(&self, section: &str, key: &str) -> Option<String> {
        let (_, value) =
            self.sections.get(&section.to_lowercase())?.iter().find(|(found, _)| *found == key.to_lowercase())?;
        Some(self.plain(value))
    }

    /// `Class` of `[Version]`.
    #[must_use]
    pub fn class(&self) -> Option<String> {
        self.value("Version", "Class")
    }

    /// `Provider` of `[Version]`.
    #[must_use]
    pub fn provider(&self) -> Option<String> {
        self.value("Version", "Provider")
    }

    /// `DriverVer` of `[Version]`.
    #[must_use]
    pub fn driver_version(&self) -> Option<String> {
        self.value("Version", "DriverVer")
    }

    /// `CatalogFile` of `[Version]`, also when it is given per processor only.
    #[must_use]
    pub fn catalog_file(&self) -> Option<String> {
        let entries = self.sections.get("version")?;
        let (_, value) = entries.iter().find(|(key, _)| key == "catalogfile" || key.starts_with("catalogfile."))?;
        Some(self.plain(value))
    }

    /// For which processors it has models or a default install.
    #[must_use]
    pub fn architectures(&self) -> BTreeSet<Architecture> {
        let mut found = BTreeSet::new();
        for (_, value) in self.sections.get("manufacturer").into_iter().flatten() {
            let decorations: Vec<&str> = value.split(',').skip(1).filter(|word| !word.trim().is_empty()).collect();
            if decorations.is_empty() {
                found.insert(Architecture::X86);
            }
            found.extend(decorations.into_iter().filter_map(Architecture::of_decoration));
        }
        for name in self.sections.keys() {
            let Some(rest) = name.strip_prefix("defaultinstall") else { continue };
            match rest.strip_prefix('.') {
                Some(decoration) => found.extend(Architecture::of_decoration(decoration)),
                None if rest.is_empty() => {
                    found.insert(Architecture::X86);
                }
                None => {}
            }
        }
        found
    }

    fn plain(&self, value: &str) -> String {
        let bare = value.trim().trim_matches('"');
        let token = bare.strip_prefix('%').and_then(|rest| rest.strip_suffix('%'));
        let string = token.and_then(|token| {
            let (_, string) = self.sections.get("strings")?.iter().find(|(key, _)| *key == token.to_lowercase())?;
            Some(string.trim().trim_matches('"').to_owned())
        });
        string.unwrap_or_else(|| bare.to_owned())
    }
}

fn decode(bytes: &[u8]) -> String {
    if let Some((encoding, mark)) = encoding_rs::Encoding::for_bom(bytes) {
        return encoding.decode_without_bom_handling(bytes.get(mark..).unwrap_or_default()).0.into_owned();
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => encoding_rs::WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned(),
    }
}

/// The line up to its comment; a `;` in quotes is none.
fn without_comment(line: &str) -> &str {
    let mut in_quotes = false;
    for (at, letter) in line.char_indices() {
        match letter {
            '"' => in_quotes = !in_quotes,
            ';' if !in_quotes => return line.get(..at).unwrap_or_default(),
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NIC: &str = "; a comment\r\n[Version]\r\nSignature=\"$WINDOWS NT$\" ; another\r\nClass = Net\r\n\
        Provider=%Contoso%\r\nDriverVer=01/02/2026,2.4.1.0\r\nCatalogFile.NTamd64=nic.cat\r\n\
        [Manufacturer]\r\n%Contoso% = Contoso, NTamd64.10.0...22000, \\\r\n  NTarm64\r\n\
        [Contoso.NTamd64.10.0...22000]\r\n\"A; B\" = x, PCI\\VEN_1\r\n[Strings]\r\nContoso=\"Contoso; Ltd\"\r\n";

    #[test]
    fn the_version_section_is_read_with_its_strings() {
        let inf = Inf::read(NIC.as_bytes());
        assert_eq!(inf.class().as_deref(), Some("Net"));
        assert_eq!(inf.provider().as_deref(), Some("Contoso; Ltd"));
        assert_eq!(inf.driver_version().as_deref(), Some("01/02/2026,2.4.1.0"));
        assert_eq!(inf.catalog_file().as_deref(), Some("nic.cat"));
        assert!(inf.has_section("VERSION") && !inf.has_section("nothing"));
    }

    #[test]
    fn every_encoding_reads_the_same() {
        let expected = Inf::read(NIC.as_bytes());
        let mut little = vec![0xff, 0xfe];
        little.extend(NIC.encode_utf16().flat_map(u16::to_le_bytes));
        let mut big = vec![0xfe, 0xff];
        big.extend(NIC.encode_utf16().flat_map(u16::to_be_bytes));
        let mut marked = vec![0xef, 0xbb, 0xbf];
        marked.extend(NIC.bytes());
        for bytes in [little, big, marked] {
            assert_eq!(Inf::read(&bytes), expected);
        }
        assert_eq!(Inf::read(b"[Version]\nProvider=M\xfcller\n").provider().as_deref(), Some("Müller"));
    }

    #[test]
    fn processors_are_read_from_manufacturers_and_default_installs() {
        let of = |text: &str| Inf::read(text.as_bytes()).architectures().into_iter().collect::<Vec<_>>();
        assert_eq!(of(NIC), [Architecture::Amd64, Architecture::Arm64]);
        assert_eq!(of("[Manufacturer]\nA=A\n"), [Architecture::X86]);
        assert_eq!(
            of("[Manufacturer]\nA=A,NT,NTia64,NTarm,nothing\n"),
            [Architecture::X86, Architecture::Arm, Architecture::Ia64]
        );
        assert_eq!(of("[DefaultInstall.NTamd64]\n[DefaultInstall.NTamd64.Services]\n"), [Architecture::Amd64]);
        assert_eq!(of("[Version]\n"), []);
    }

    #[test]
    fn an_os_code_names_its_processor() {
        for (code, expected) in [
            ("WINDOWS_v100_X64_CO_FULL", Architecture::Amd64),
            ("WINDOWS_v100_ARM64_GE_FULL", Architecture::Arm64),
            ("WINDOWS_v100_RS5_FULL", Architecture::X86),
            ("WINDOWS_8_ARM", Architecture::Arm),
            ("WINDOWS_XP_IA64", Architecture::Ia64),
        ] {
            assert_eq!(Architecture::of_os_code(code), expected, "{code}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let inf = Inf::read(&bytes);
            let _survived = (inf.architectures(), inf.provider(), inf.catalog_file());
        }

        #[test]
        fn a_damaged_file_is_survived(at in any::<prop::sample::Index>(), value in any::<u8>()) {
            let mut bytes = NIC.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = value;
            let _survived = Inf::read(&bytes).architectures();
        }
    }
}
