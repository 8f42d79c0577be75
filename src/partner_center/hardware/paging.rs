//! Addresses: every request stays on the configured host, whatever a link says.
//!
//! Source: contract/hardware-api.md, section 10 and quirk Q9: hosts inside links are wrong, hold blanks, or lie.

use url::Url;

use super::wire::Link;
use crate::domain::service::PageLink;

/// The configured base address.
#[derive(Debug, Clone)]
pub(super) struct Base {
    url: Url,
    /// Its path without the slash at its end.
    prefix: String,
}

impl Base {
    pub(super) fn new(base_url: &Url) -> Self {
        let mut url = base_url.clone();
        url.set_query(None);
        url.set_fragment(None);
        let prefix = url.path().trim_end_matches('/').to_owned();
        Self { url, prefix }
    }

    /// The address of a path below the base.
    pub(super) fn join(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{path}", self.prefix));
        url
    }

    /// The address of a page: path and query on the configured host.
    pub(super) fn page(&self, link: &PageLink) -> Url {
        let (path, query) = link.0.split_once('?').map_or((link.0.as_str(), None), |(path, query)| (path, Some(query)));
        let mut url = self.url.clone();
        url.set_path(path);
        url.set_query(query);
        url
    }

    /// The next page that `links` name, seen from the page at `current`. A page never follows itself.
    pub(super) fn next_page(&self, links: &[Link], current: &Url) -> Option<PageLink> {
        let is_next = |link: &&Link| link.rel.as_deref().is_some_and(|rel| rel.eq_ignore_ascii_case("next_link"));
        let href = links.iter().find(is_next)?.href.as_deref()?.trim();
        let (path, query) = path_and_query(href);
        let path = if self.is_below(path) { path } else { current.path() };
        let link = PageLink(query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}")));
        let is_new = self.page(&link) != *current && (query.is_some() || path != current.path());
        is_new.then_some(link)
    }

    /// Does the path name something of this API? Documentation links lack the prefix; dots could leave it.
    fn is_below(&self, path: &str) -> bool {
        let steps_out = path.split('/').any(|segment| {
            let plain = segment.to_ascii_lowercase().replace("%2e", ".");
            plain == "." || plain == ".."
        });
        let rest = path.strip_prefix(self.prefix.as_str());
        rest.is_some_and(|rest| rest.starts_with('/')) && !steps_out && !path.contains(['\\', ' ', '\t'])
    }
}

/// Path and query as text: the host may be no host at all.
fn path_and_query(href: &str) -> (&str, Option<&str>) {
    let href = href.split('#').next().unwrap_or_default();
    let (before, query) = href.split_once('?').map_or((href, None), |(before, query)| (before, Some(query)));
    let path = match before.split_once("://") {
        Some((_, rest)) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default(),
        None => before,
    };
    (path, query.filter(|query| !query.is_empty()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CURRENT: &str = "https://service.example/v2.0/my/hardware/products";

    fn base() -> Base {
        Base::new(&"https://service.example/v2.0/my/hardware/".parse().unwrap())
    }

    fn next(href: &str, current: &str) -> Option<String> {
        let link = Link { href: Some(href.to_owned()), rel: Some("next_link".to_owned()) };
        base().next_page(&[link], &current.parse().unwrap()).map(|link| base().page(&link).to_string())
    }

    #[test]
    fn path_and_query_are_put_on_the_configured_host() {
        let paged = "https://service.example/v2.0/my/hardware/products?pageSize=50&continuationToken=RVh%2BQQ%3D%3D";
        for host in ["https://manage.devcenter.microsoft.com", "http://evil.example:81", "https:// blank.example", ""] {
            let href = format!("{host}/v2.0/my/hardware/products?pageSize=50&continuationToken=RVh%2BQQ%3D%3D");
            assert_eq!(next(&href, CURRENT).as_deref(), Some(paged), "{href}");
        }
        for odd in [
            "https://hardwareapi.microsoft.com/api/v1/hardware/products",
            "https://x/api/v2.0/hardware/products",
            "https://x/v2.0/my/hardware/../../../secret",
            "https://x/v2.0/my/hardware/%2E%2e/secret",
            "https://x/v2.0/my/hardwareother/products",
            "https://x",
            "",
        ] {
            let href = format!("{odd}?pageSize=50&continuationToken=RVh%2BQQ%3D%3D#part");
            assert_eq!(next(&href, CURRENT).as_deref(), Some(paged), "{href}");
        }
    }

    #[test]
    fn a_page_never_follows_itself_and_only_next_link_counts() {
        let second = format!("{CURRENT}?continuationToken=a");
        assert_eq!(next(&second, &second), None);
        assert_eq!(next(CURRENT, CURRENT), None);
        assert_eq!(next(CURRENT, &second), None, "the first page is not the next of the second");
        assert_eq!(next("", CURRENT), None);
        let other = Link { href: Some(second), rel: Some("self".to_owned()) };
        assert_eq!(base().next_page(&[other], &CURRENT.parse().unwrap()), None);
        let empty = Link { href: None, rel: Some("next_link".to_owned()) };
        assert_eq!(base().next_page(&[empty], &CURRENT.parse().unwrap()), None);
    }

    proptest! {
        #[test]
        fn no_link_leaves_the_host_or_the_api(href in "(https?://)?[a-z./?%2e\\\\ :@#-]{0,40}") {
            if let Some(url) = next(&href, CURRENT) {
                prop_assert!(url.starts_with("https://service.example/v2.0/my/hardware/"), "{} from {}", url, href);
            }
        }

        #[test]
        fn any_kept_link_stays_on_the_host(text in ".{0,60}") {
            prop_assert_eq!(base().page(&PageLink(text)).origin(), CURRENT.parse::<Url>().unwrap().origin());
        }
    }
}
