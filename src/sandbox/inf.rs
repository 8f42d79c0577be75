//! As much of an INF file as the driver metadata of hardware-api.md 6.9 tells: class, version, provider, hardware ids.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// One INF file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Inf {
    class: Option<String>,
    class_guid: Option<String>,
    provider: Option<String>,
    date: Option<String>,
    version: Option<String>,
    extension_id: Option<String>,
    /// Hardware id, manufacturer and description.
    devices: Vec<(String, String, String)>,
}

type Sections = BTreeMap<String, Vec<String>>;

impl Inf {
    /// Reads what there is; what cannot be read is left out, as a missing member is legal everywhere.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let sections = sections(&text(bytes));
        let strings: BTreeMap<String, String> = sections
            .get("strings")
            .into_iter()
            .flatten()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.trim().to_lowercase(), unquoted(value).to_owned()))
            .collect();
        let resolve = |value: &str| -> String {
            let value = unquoted(value);
            let token = value.strip_prefix('%').and_then(|rest| rest.strip_suffix('%'));
            token.and_then(|name| strings.get(&name.to_lowercase())).cloned().unwrap_or_else(|| value.to_owned())
        };
        let version: BTreeMap<String, String> = sections
            .get("version")
            .into_iter()
            .flatten()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.trim().to_lowercase(), resolve(value)))
            .collect();
        let (date, number) = version.get("driverver").and_then(|text| text.split_once(',')).unwrap_or_default();
        Self {
            class: version.get("class").cloned(),
            class_guid: version.get("classguid").cloned(),
            provider: version.get("provider").cloned(),
            date: iso_date(date.trim()),
            version: Some(number.trim().to_owned()).filter(|number| !number.is_empty()),
            extension_id: version.get("extensionid").map(|id| id.trim_matches(['{', '}']).to_owned()),
            devices: devices(&sections, &resolve),
        }
    }

    /// Whether it extends another driver.
    pub(super) fn is_extension(&self) -> bool {
        self.class.as_deref().is_some_and(|class| class.eq_ignore_ascii_case("extension"))
    }

    /// Its entry in the driver metadata.
    pub(super) fn metadata(&self, name: &str, os_codes: &[String]) -> Value {
        let devices: Map<String, Value> = self
            .devices
            .iter()
            .map(|(id, manufacturer, description)| {
                let leaf = json!({
                    "Manufacturer": manufacturer, "DeviceDescription": description, "FeatureScore": null,
                });
                (id.clone(), leaf)
            })
            .collect();
        let by_os: Map<String, Value> =
            os_codes.iter().map(|code| (code.clone(), Value::Object(devices.clone()))).collect();
        json!({
            "DriverPackageFamilyId": format!("{}-{name}", self.provider.as_deref().unwrap_or("Unknown")),
            "InfClass": self.class,
            "DriverVersion": self.version,
            "DriverDate": self.date,
            "ExtensionId": self.extension_id,
            "Provider": self.provider,
            "ClassGuid": self.class_guid,
            "InstallationComputerHardwareIds": [],
            "OSPnPInfoMap": by_os,
        })
    }
}

/// The text, whichever of the usual encodings it is in.
fn text(bytes: &[u8]) -> String {
    let (encoding, skip) = encoding_rs::Encoding::for_bom(bytes).unwrap_or((encoding_rs::WINDOWS_1252, 0));
    let bytes = bytes.get(skip..).unwrap_or_default();
    if encoding == encoding_rs::WINDOWS_1252
        && let Ok(text) = std::str::from_utf8(bytes)
    {
        return text.to_owned();
    }
    encoding.decode_without_bom_handling(bytes).0.into_owned()
}

/// Lines by section, in lower case, without comments.
fn sections(text: &str) -> Sections {
    let mut all = Sections::new();
    let mut current = String::new();
    for line in text.lines() {
        let line = without_comment(line).trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(name, _)| name) {
            current = name.trim().to_lowercase();
        } else if !line.is_empty() {
            all.entry(current.clone()).or_default().push(line.to_owned());
        }
    }
    all
}

fn without_comment(line: &str) -> &str {
    let mut is_quoted = false;
    for (position, character) in line.char_indices() {
        match character {
            '"' => is_quoted = !is_quoted,
            ';' if !is_quoted => return line.get(..position).unwrap_or(line),
            _ => {}
        }
    }
    line
}

fn unquoted(value: &str) -> &str {
    let value = value.trim();
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

/// `mm/dd/yyyy` as the metadata says it.
fn iso_date(date: &str) -> Option<String> {
    let mut parts = date.split('/').map(|part| part.trim().parse::<u16>());
    let (month, day, year) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    ((1..=12).contains(&month) && (1..=31).contains(&day) && (1..=9999).contains(&year))
        .then(|| format!("{year:04}-{month:02}-{day:02}T00:00:00"))
}

/// Every hardware id of every model section that a manufacturer names.
fn devices(sections: &Sections, resolve: &dyn Fn(&str) -> String) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for line in sections.get("manufacturer").into_iter().flatten() {
        let (name, value) = line.split_once('=').unwrap_or((line, line));
        let manufacturer = resolve(name);
        let mut parts = value.split(',').map(|part| part.trim().to_lowercase());
        let base = parts.next().unwrap_or_default();
        let decorated: Vec<String> = parts.map(|part| format!("{base}.{part}")).collect();
        for section in std::iter::once(base).chain(decorated) {
            for line in sections.get(&section).into_iter().flatten() {
                let Some((description, rest)) = line.split_once('=') else { continue };
                for id in rest.split(',').skip(1).map(unquoted).filter(|id| !id.is_empty()) {
                    found.push((id.to_owned(), manufacturer.clone(), resolve(description)));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: &str = r#"
; a comment
[Version]
Signature   = "$WINDOWS NT$"
Class       = MEDIA ; the class
ClassGuid   = {4d36e96c-e325-11ce-bfc1-08002be10318}
Provider    = %Maker%
DriverVer   = 09/20/2026,4.2.0.118
[Manufacturer]
%Maker% = Models,NTamd64,NTarm64
[Models.NTamd64]
%Audio% = Install, PCI\VEN_1234&DEV_5678, PCI\VEN_1234
[Strings]
Maker = "Example; Inc"
Audio = "Example Audio"
"#;

    #[test]
    fn an_inf_tells_what_the_metadata_needs_in_any_encoding() {
        let plain = Inf::read(SAMPLE.as_bytes());
        let metadata = plain.metadata("exampleaudio.inf", &["WINDOWS_v100_X64_GE_FULL".to_owned()]);
        assert_eq!(metadata["DriverVersion"], "4.2.0.118");
        assert_eq!(metadata["DriverDate"], "2026-09-20T00:00:00");
        assert_eq!(metadata["Provider"], "Example; Inc");
        let device = &metadata["OSPnPInfoMap"]["WINDOWS_v100_X64_GE_FULL"]["PCI\\VEN_1234&DEV_5678"];
        assert_eq!(device["DeviceDescription"], "Example Audio");
        assert!(!plain.is_extension());
        let mut wide = vec![0xff, 0xfe];
        wide.extend(SAMPLE.encode_utf16().flat_map(u16::to_le_bytes));
        assert_eq!(Inf::read(&wide), plain);
    }

    proptest! {
        #[test]
        fn reading_survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let metadata = Inf::read(&bytes).metadata("x.inf", &[]);
            prop_assert!(metadata.is_object());
        }
    }
}
