//! A request to the API server, taken apart as far as faults and timelines need.

use http::Method;

/// What a process asked of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`.
    pub verb: &'static str,
    /// The resource's plural name, such as `gpunodes`.
    pub resource: String,
    /// Empty for resources of the cluster.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// `status`, `log`, or empty.
    pub subresource: String,
}

impl Asked {
    /// Reads method and URI.
    #[must_use]
    pub fn of<B>(request: &http::Request<B>) -> Self {
        let mut parts = request.uri().path().trim_matches('/').split('/');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        // /api/v1/... or /apis/<group>/<version>/...
        if next() == "apis" {
            next();
        }
        next();
        let (mut resource, mut namespace) = (next(), String::new());
        let mut name = next();
        let mut subresource = next();
        // `namespaces/x` is a Namespace, `namespaces/x/pods` is what is in it.
        if resource == "namespaces" && !subresource.is_empty() && subresource != "status" && subresource != "finalize" {
            (namespace, resource) = (name, subresource);
            (name, subresource) = (next(), next());
        }
        let watches = request.uri().query().is_some_and(|q| q.split('&').any(|p| p == "watch=true" || p == "watch=1"));
        let verb = match *request.method() {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ if watches => "watch",
            _ if name.is_empty() => "list",
            _ => "get",
        };
        Asked { verb, resource, namespace, name, subresource }
    }

    /// Whether it changes something if it succeeds.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(self.verb, "create" | "update" | "patch" | "delete")
    }

    /// Whether it counts in the sequence of writes. The Lease is renewed for ever, and changes nothing that is promised.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.is_write() && self.resource != "leases"
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        // Events are named after the wall clock by kube's recorder.
        if !self.name.is_empty() {
            write!(f, "/{}", self.name)?;
        }
        if !self.subresource.is_empty() {
            write!(f, "/{}", self.subresource)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, uri: &str) -> String {
        let request = http::Request::builder().method(method).uri(uri).body(()).expect("a request");
        let a = Asked::of(&request);
        format!("{a} in {:?} counts {}", a.namespace, a.counts())
    }

    #[test]
    fn paths_are_taken_apart() {
        assert_eq!(asked(Method::GET, "/api/v1/namespaces/kube-system"), "get namespaces/kube-system in \"\" counts false");
        assert_eq!(asked(Method::GET, "/api/v1/pods?limit=500"), "list pods in \"\" counts false");
        assert_eq!(asked(Method::GET, "/apis/gpujob.dev/v1alpha1/gpunodes?&watch=true&a=b"), "watch gpunodes in \"\" counts false");
        assert_eq!(asked(Method::POST, "/api/v1/namespaces/default/pods?"), "create pods in \"default\" counts true");
        assert_eq!(
            asked(Method::PATCH, "/apis/gpujob.dev/v1alpha1/namespaces/d/gpujobs/j/status?"),
            "patch gpujobs/j/status in \"d\" counts true"
        );
        assert_eq!(asked(Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/s/leases/l"), "update leases/l in \"s\" counts false");
    }
}
