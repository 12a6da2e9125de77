//! From a URL to what is asked for.

use super::refusal::Refusal;
use super::resource::{self, Resource};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a path names.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// A document that says what is served.
    Discovery(Value),
    /// Objects.
    Objects(Target),
}

/// A collection, an object or a part of one.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) resource: &'static Resource,
    /// Empty for cluster-scoped objects and for collections over all namespaces.
    pub(crate) namespace: String,
    /// Empty for collections.
    pub(crate) name: String,
    pub(crate) subresource: String,
}

/// The query, decoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|p| !p.is_empty());
        Query(pairs.map(|p| p.split_once('=').unwrap_or((p, ""))).map(|(k, v)| (decode(k), decode(v))).collect())
    }

    /// A parameter that is there and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1"))
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        (bytes, rest) = match (first, hex) {
            (b'%', Some(byte)) => (push(bytes, byte), &tail[2..]),
            (b'+', _) => (push(bytes, b' '), tail),
            (byte, _) => (push(bytes, *byte), tail),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn push(mut bytes: Vec<u8>, byte: u8) -> Vec<u8> {
    bytes.push(byte);
    bytes
}

/// Where a path leads.
pub(crate) fn route(path: &str) -> Result<Route, Refusal> {
    let parts: Vec<String> = path.trim_matches('/').split('/').map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["version"] => {
            return Ok(Route::Discovery(json!({
                "major": "1", "minor": "35", "gitVersion": "v1.35.4", "gitCommit": "", "gitTreeState": "clean", "buildDate": "",
                "goVersion": "", "compiler": "gc", "platform": "linux/amd64",
            })));
        }
        ["api"] => return Ok(Route::Discovery(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}))),
        ["apis"] => return Ok(Route::Discovery(groups())),
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(Refusal::no_route()),
    };
    if rest.is_empty() {
        return resources(group, version).map(Route::Discovery).ok_or_else(Refusal::no_route);
    }
    // `namespaces/NAME/` before a resource is a place; else it is the resource itself.
    let (namespace, rest) = match rest {
        ["namespaces", _, "status" | "finalize"] => ("", rest),
        ["namespaces", namespace, inner @ ..] if !inner.is_empty() => (*namespace, inner),
        _ => ("", rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (*plural, "", ""),
        [plural, name] => (*plural, *name, ""),
        [plural, name, subresource] => (*plural, *name, *subresource),
        _ => return Err(Refusal::no_route()),
    };
    let served = resource::all().iter().find(|r| r.group == group && r.version == version && r.plural == plural);
    let resource = served.ok_or_else(Refusal::no_route)?;
    let known = match subresource {
        "" => true,
        "status" => resource.status,
        "binding" | "eviction" | "log" => resource.is("pods"),
        _ => false,
    };
    // A name in no namespace, or a namespace for what has none, is no path.
    let placed = !namespace.is_empty();
    let everywhere = resource.namespaced && name.is_empty();
    if !known || (resource.namespaced != placed && !everywhere) {
        return Err(Refusal::no_route());
    }
    Ok(Route::Objects(Target { resource, namespace: namespace.to_owned(), name: name.to_owned(), subresource: subresource.to_owned() }))
}

fn groups() -> Value {
    let mut groups: BTreeMap<&str, &str> = BTreeMap::new();
    groups.extend(resource::all().iter().filter(|r| !r.group.is_empty()).map(|r| (r.group.as_str(), r.version.as_str())));
    let group = |(name, version): (&str, &str)| {
        let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
        json!({"name": name, "versions": [version], "preferredVersion": version})
    };
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups.into_iter().map(group).collect::<Vec<_>>()})
}

fn resources(group: &str, version: &str) -> Option<Value> {
    let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    let rows: Vec<Value> = resource::all()
        .iter()
        .filter(|r| r.group == group && r.version == version)
        .map(|r| json!({"name": r.plural, "singularName": r.kind.to_lowercase(), "namespaced": r.namespaced, "kind": r.kind, "verbs": verbs}))
        .collect();
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    (!rows.is_empty()).then(|| json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": rows}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_objects_or_nowhere() {
        let at = |path: &str| match route(path) {
            Ok(Route::Objects(t)) => format!("{} {:?} {:?} {:?}", t.resource.plural, t.namespace, t.name, t.subresource),
            Ok(Route::Discovery(d)) => d["kind"].as_str().unwrap_or("Info").to_owned(),
            Err(e) => e.code.to_string(),
        };
        for (path, expected) in [
            ("/api/v1/namespaces/a/pods/p/status", r#"pods "a" "p" "status""#),
            ("/api/v1/pods", r#"pods "" "" """#),
            ("/api/v1/namespaces/a", r#"namespaces "" "a" """#),
            ("/api/v1/namespaces/a/status", r#"namespaces "" "a" "status""#),
            ("/apis/gpujob.dev/v1alpha1/gpunodes/n", r#"gpunodes "" "n" """#),
            ("/apis/gpujob.dev/v1alpha1/gpujobs/n", "404"),
            ("/apis/gpujob.dev/v1alpha1/namespaces/a/gpunodes/n", "404"),
            ("/api/v1/namespaces/a/configmaps/c/status", "404"),
            ("/apis/apps/v1/deployments", "404"),
            ("/apis/gpujob.dev/v1alpha1", "APIResourceList"),
            ("/apis", "APIGroupList"),
            ("/version", "Info"),
        ] {
            assert_eq!(at(path), expected, "{path}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc&watch=true&limit=&x=a+b");
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert_eq!((query.is_true("watch"), query.get("limit"), query.get("x")), (true, None, Some("a b")));
    }
}
