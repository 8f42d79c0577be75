//! The body of `createProduct` as a job writes it: Microsoft's own member names, read strictly.
//!
//! The service drops misspelt members without a word, so every unknown one is refused here. Rules: schema `NewProduct`
//! and sections 5.5, 6.2 and 6.3 of contract/hardware-api.md.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};

use super::{json::Object, service};

/// A product to be created.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewProduct {
    /// The name that partners see: 1 to 120 characters of printable ASCII.
    #[serde(deserialize_with = "product_name")]
    #[schemars(length(min = 1, max = 120), regex(pattern = "^[ -~]+$"))]
    pub product_name: String,
    /// The kind of test behind the package.
    pub test_harness: TestHarness,
    /// When Windows Server Catalog may list it; without an offset it is UTC.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "announcement_date")]
    #[schemars(
        with = "Option<String>",
        regex(pattern = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,7})?(Z|[+-]\d{2}:\d{2})?$")
    )]
    pub announcement_date: Option<String>,
    /// Device-metadata submissions tied to the driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_metadata_ids: Option<Vec<Guid>>,
    /// Firmware version.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub firmware_version: Option<String>,
    /// Where the device sits.
    pub device_type: DeviceType,
    /// A test-signed product.
    #[serde(default)]
    pub is_test_sign: bool,
    /// Installable on Windows Insider machines only.
    #[serde(default)]
    pub is_flight_sign: bool,
    /// Names under which the device is sold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marketing_names: Option<Vec<String>>,
    /// Operating system family to product type; may be empty for attestation.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub selected_product_types: Option<BTreeMap<String, String>>,
    /// Operating systems to sign for, such as `WINDOWS_v100_X64_GE_FULL`: at least one, none twice.
    #[serde(deserialize_with = "signatures")]
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub requested_signatures: Vec<OsCode>,
    /// What some kinds of product need besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additional_attributes: Option<Object<AdditionalAttributes>>,
}

impl NewProduct {
    /// The body as it is sent: what the job left out and the service wants is filled in.
    #[must_use]
    pub fn to_service(&self) -> service::NewProduct {
        match serde_json::to_value(self) {
            Ok(Value::Object(members)) => service::NewProduct { members },
            // A struct of texts, lists and maps with text keys is always an object.
            Ok(_) | Err(_) => service::NewProduct { members: Map::new() },
        }
    }
}

/// `testHarness`, written in any case of letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TestHarness {
    /// Attestation signing of a cabinet.
    Attestation,
    /// Hardware Lab Kit (`.hlkx`).
    Hlk,
    /// Hardware Certification Kit (`.hckx`).
    Hck,
}

impl JsonSchema for TestHarness {
    fn schema_name() -> Cow<'static, str> {
        "TestHarness".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "The kind of test behind the package, in any case of letters.",
            "type": "string",
            "enum": ["attestation", "Attestation", "hlk", "HLK", "hck", "HCK"]
        })
    }
}

impl<'de> Deserialize<'de> for TestHarness {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.to_ascii_lowercase().as_str() {
            "attestation" => Ok(Self::Attestation),
            "hlk" => Ok(Self::Hlk),
            "hck" => Ok(Self::Hck),
            _ => Err(de::Error::unknown_variant(&text, &["attestation", "hlk", "hck"])),
        }
    }
}

/// `deviceType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DeviceType {
    /// Built in.
    Internal,
    /// Attached from outside.
    External,
    /// Both.
    InternalExternal,
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $pattern:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(#[schemars(regex(pattern = $pattern))] String);

        impl $name {
            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let check: fn(&str) -> bool = $check;
                if check(&text) { Ok(Self(text)) } else { Err(de::Error::invalid_value(de::Unexpected::Str(&text), &$rule)) }
            }
        }
    };
}

checked_text!(
    /// An operating system code. The set is open: newer codes work before they are documented.
    OsCode, "^WINDOWS_[A-Za-z0-9_]+$", "an operating system code such as WINDOWS_v100_X64_GE_FULL",
    |text| text.strip_prefix("WINDOWS_").is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
);

checked_text!(
    /// A GUID with its four hyphens.
    Guid, "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", "a GUID such as 6d0b7f7e-8a15-4a4d-9a6a-0c6d6f0b1a01",
    |text| text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
);

/// `additionalAttributes` (section 6.3).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdditionalAttributes {
    /// For storage controllers.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "storage_controller")]
    pub storage_controller: Option<Object<StorageController>>,
    /// For RAID controllers.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "raid_controller")]
    pub raid_controller: Option<Object<RaidController>>,
    /// For the Server Virtualization Validation Program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub svvp: Option<Object<Svvp>>,
}

macro_rules! attributes {
    ($(#[$doc:meta])* $name:ident { texts: $($text:ident)*; flags: $($flag:ident $(= $wire:literal)?)*; numbers: $($number:ident)*; }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        #[expect(missing_docs, reason = "Microsoft's own member names, which nobody documents further")]
        pub struct $name {
            $(#[serde(default, skip_serializing_if = "Option::is_none")] pub $text: Option<String>,)*
            $(#[serde(default, skip_serializing_if = "Option::is_none" $(, rename = $wire)?)] pub $flag: Option<bool>,)*
            $(#[serde(default, skip_serializing_if = "Option::is_none")] pub $number: Option<u64>,)*
        }
    };
}

attributes!(
    /// `storageController`.
    StorageController {
        texts: bios_version firmware_version driver_version driver_name device_version chipset_name proprietary_name
            proprietary_version microsoft_name microsoft_version uefi_version acpi_version;
        flags: used_proprietary used_microsoft used_boot_support used_better_boot
            supports_sector4_k512_e = "supportsSector4K512E" supports_sector4_k4_k = "supportsSector4K4K"
            supports_differential;
        numbers: ;
    }
);

attributes!(
    /// `raidController`.
    RaidController {
        texts: firmware_version filter_version driver_version proprietary_name proprietary_version microsoft_name
            microsoft_version additional_info;
        flags: used_proprietary used_microsoft is_third_party_needed is_ses = "isSES" is_safte = "isSAFTE";
        numbers: ;
    }
);

attributes!(
    /// `svvp`; `max_memory` in GB.
    Svvp {
        texts: product_version support_link guest_os processor_architecture;
        flags: ;
        numbers: max_processors max_memory;
    }
);

fn product_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.trim().is_empty() {
        return Err(de::Error::custom("a name of at least one visible character is needed"));
    }
    if text.len() > 120 || !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(de::Error::custom("at most 120 characters of printable ASCII are allowed"));
    }
    Ok(text)
}

fn announcement_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    // The shape first: the calendar's parser takes more than the service does.
    let mut shape = text.bytes().map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
    let has_shape = shape.by_ref().take(19).eq(*b"0000-00-00T00:00:00");
    let rest: Vec<u8> = shape.collect();
    let digits = rest.strip_prefix(b".").map_or(0, |rest| rest.iter().take_while(|byte| **byte == b'0').count());
    let offset = if rest.starts_with(b".") { rest.get(1 + digits..).unwrap_or_default() } else { &rest };
    let has_fraction = !rest.starts_with(b".") || (1..=7).contains(&digits);
    let has_offset = matches!(offset, b"" | b"Z" | b"+00:00" | b"-00:00");
    let is_instant = text.parse::<jiff::Timestamp>().is_ok() || text.parse::<jiff::civil::DateTime>().is_ok();
    if has_shape && has_fraction && has_offset && is_instant {
        Ok(Some(text))
    } else {
        Err(de::Error::invalid_value(de::Unexpected::Str(&text), &"a date and time such as 2026-11-02T00:00:00Z"))
    }
}

/// A member that may be left out but not be null.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn signatures<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<OsCode>, D::Error> {
    let codes = Vec::<OsCode>::deserialize(deserializer)?;
    let mut seen = BTreeSet::new();
    if let Some(twice) = codes.iter().find(|code| !seen.insert(*code)) {
        return Err(de::Error::custom(format!("{} is there twice", twice.as_str())));
    }
    if codes.is_empty() { Err(de::Error::custom("at least one operating system code is needed")) } else { Ok(codes) }
}

/// Fields that become mandatory with a flag (section 6.3).
fn demand<E: de::Error>(flag: &str, is_set: Option<bool>, needed: [(&str, &Option<String>); 2]) -> Result<(), E> {
    let missing = needed.iter().find(|(_, text)| text.as_deref().is_none_or(|text| text.trim().is_empty()));
    match missing {
        Some((name, _)) if is_set == Some(true) => Err(E::custom(format!("{name} is needed because {flag} is true"))),
        Some(_) | None => Ok(()),
    }
}

fn storage_controller<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Object<StorageController>>, D::Error> {
    let found = Option::<Object<StorageController>>::deserialize(deserializer)?;
    if let Some(Object(it)) = &found {
        let proprietary = [("proprietaryName", &it.proprietary_name), ("proprietaryVersion", &it.proprietary_version)];
        demand("usedProprietary", it.used_proprietary, proprietary)?;
        let microsoft = [("microsoftName", &it.microsoft_name), ("microsoftVersion", &it.microsoft_version)];
        demand("usedMicrosoft", it.used_microsoft, microsoft)?;
        let boot = [("uefiVersion", &it.uefi_version), ("acpiVersion", &it.acpi_version)];
        demand("usedBetterBoot", it.used_better_boot, boot)?;
    }
    Ok(found)
}

fn raid_controller<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Object<RaidController>>, D::Error> {
    let found = Option::<Object<RaidController>>::deserialize(deserializer)?;
    if let Some(Object(it)) = &found {
        let proprietary = [("proprietaryName", &it.proprietary_name), ("proprietaryVersion", &it.proprietary_version)];
        demand("usedProprietary", it.used_proprietary, proprietary)?;
        let microsoft = [("microsoftName", &it.microsoft_name), ("microsoftVersion", &it.microsoft_version)];
        demand("usedMicrosoft", it.used_microsoft, microsoft)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        domain::json::{Mistake, decode},
        partner_center::contract,
    };

    fn read(value: Value) -> Result<NewProduct, Mistake> {
        decode::<Object<NewProduct>>("spec.product.create", value).map(|product| product.0)
    }

    fn with(change: impl FnOnce(&mut Value)) -> Value {
        let mut value = contract::examples("NewProduct")[0].clone();
        change(&mut value);
        value
    }

    #[test]
    fn every_example_is_read_and_sent_as_the_schema_wants_it() {
        for example in contract::examples("NewProduct") {
            let sent = Value::Object(read(example.clone()).unwrap().to_service().members);
            assert_eq!(contract::objections("NewProduct", &sent), Vec::<String>::new());
            let mut expected = example;
            expected["testHarness"] = expected["testHarness"].as_str().unwrap().to_lowercase().into();
            assert_eq!(sent, expected);
        }
    }

    #[test]
    fn the_least_body_is_filled_up_to_what_the_service_wants() {
        let least = json!({"productName": "n", "testHarness": "ATTESTATION", "deviceType": "internal",
            "requestedSignatures": ["WINDOWS_v100_X64_GE_FULL"]});
        let sent = Value::Object(read(least).unwrap().to_service().members);
        assert_eq!(contract::objections("NewProduct", &sent), Vec::<String>::new());
        assert_eq!((&sent["testHarness"], &sent["isTestSign"]), (&json!("attestation"), &json!(false)));
    }

    #[test]
    fn every_mistake_is_named_with_its_path() {
        let long = "x".repeat(121);
        let cases: [(&str, Value, &str); 22] = [
            ("productName", json!(""), "productName"),
            ("productName", json!("  "), "productName"),
            ("productName", json!("é"), "productName"),
            ("productName", json!(long), "productName"),
            ("productName", json!(7), "productName"),
            ("testHarness", json!("notset"), "testHarness"),
            ("deviceType", json!("notSet"), "deviceType"),
            ("isTestSign", json!("no"), "isTestSign"),
            ("requestedSignatures", json!([]), "requestedSignatures"),
            ("requestedSignatures", json!(["WINDOWS_A", "WINDOWS_A"]), "requestedSignatures"),
            ("requestedSignatures", json!(["WINDOWS_A", "LINUX"]), "requestedSignatures[1]"),
            ("requestedSignatures", json!("WINDOWS_A"), "requestedSignatures"),
            ("deviceMetadataIds", json!(["not a guid"]), "deviceMetadataIds[0]"),
            ("announcementDate", json!("tomorrow"), "announcementDate"),
            ("announcementDate", json!("2026-13-02T00:00:00Z"), "announcementDate"),
            ("announcementDate", json!(null), "announcementDate"),
            ("selectedProductTypes", json!({"Windows_v100_GE": 1}), "selectedProductTypes.Windows_v100_GE"),
            ("additionalAttributes", json!({"svvp": {"maxMemory": "x"}}), "additionalAttributes.svvp.maxMemory"),
            ("additionalAttributes", json!({"storage": {}}), "additionalAttributes.storage"),
            (
                "additionalAttributes",
                json!({"storageController": {"usedBetterBoot": true, "uefiVersion": "1"}}),
                "additionalAttributes.storageController",
            ),
            (
                "additionalAttributes",
                json!({"raidController": {"usedMicrosoft": true}}),
                "additionalAttributes.raidController",
            ),
            ("markettingNames", json!([]), "markettingNames"),
        ];
        for (member, value, path) in cases {
            let mistake = read(with(|body| body[member] = value.clone())).unwrap_err();
            assert_eq!(mistake.path, format!("spec.product.create.{path}"), "{value}: {mistake}");
        }
        let missing = read(with(|body| drop(body.as_object_mut().unwrap().remove("requestedSignatures")))).unwrap_err();
        assert!(missing.problem.contains("requestedSignatures"), "{missing}");
        assert_eq!(read(json!(["n"])).unwrap_err().path, "spec.product.create");
    }

    #[test]
    fn attributes_of_every_kind_are_read_and_written_under_microsofts_names() {
        let attributes = json!({
            "storageController": {"usedProprietary": true, "proprietaryName": "p", "proprietaryVersion": "1",
                "supportsSector4K512E": true, "supportsSector4K4K": false, "biosVersion": null},
            "raidController": {"isSES": true, "isSAFTE": false, "isThirdPartyNeeded": false},
            "svvp": {"guestOs": "Windows Server 2012", "maxProcessors": 64, "maxMemory": 512},
        });
        let sent = read(with(|body| body["additionalAttributes"] = attributes.clone())).unwrap().to_service();
        let mut expected = attributes;
        expected["storageController"].as_object_mut().unwrap().remove("biosVersion");
        assert_eq!(sent.members["additionalAttributes"], expected);
    }

    #[test]
    fn the_schema_we_publish_agrees_with_the_decoder() {
        let schema = serde_json::to_value(schemars::schema_for!(NewProduct)).unwrap();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        for example in contract::examples("NewProduct") {
            assert!(
                validator.is_valid(&example),
                "{:?}",
                validator.iter_errors(&example).map(|e| e.to_string()).collect::<Vec<_>>()
            );
        }
        for (member, value) in [
            ("productName", json!("")),
            ("testHarness", json!("notset")),
            ("requestedSignatures", json!([])),
            ("requestedSignatures", json!(["LINUX"])),
            ("requestedSignatures", json!(["WINDOWS_A", "WINDOWS_A"])),
            ("markettingNames", json!([])),
        ] {
            assert!(!validator.is_valid(&with(|body| body[member] = value.clone())), "{member} {value}");
        }
    }

    proptest! {
        #[test]
        fn what_the_decoder_lets_through_the_contract_accepts(
            name in "[ -~]{0,130}", code in "(WINDOWS_)?[A-Za-z0-9_-]{0,8}", date in "20(26|27)-[01][0-9]-[0-3][0-9]T1[0-9]:00:00(\\.[0-9]{0,8})?(Z|\\+0[0-9]:00)?",
        ) {
            let body = with(|body| {
                body["productName"] = name.into();
                body["requestedSignatures"] = json!([code]);
                body["announcementDate"] = date.into();
            });
            if let Ok(product) = read(body) {
                let sent = Value::Object(product.to_service().members);
                prop_assert_eq!(contract::objections("NewProduct", &sent), Vec::<String>::new());
            }
        }
    }
}
