//! The cluster's certificate authority, the certificates it gives out, and the kubeconfigs that use them.

use crate::host::{API_SERVER, Paths};
use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Names and addresses that the API server answers to.
const API_SERVER_NAMES: [&str; 7] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
    "10.77.0.1",
    "10.96.0.1",
];

/// Clients of the API server: name, user, group.
const CLIENTS: [(&str, &str, &str); 4] = [
    ("admin", "lab-admin", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("proxy", "system:kube-proxy", ""),
];

/// Makes everything that is missing. A complete set is left alone, so that a running cluster keeps its keys.
///
/// # Errors
/// A key cannot be made or a file not written.
pub fn ensure(paths: &Paths) -> Result<()> {
    let complete = paths.kubeconfig("proxy");
    if complete.exists() {
        return Ok(());
    }
    fs::create_dir_all(paths.state.join("pki"))?;
    fs::create_dir_all(paths.state.join("kubeconfig"))?;

    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    authority.distinguished_name.push(DnType::CommonName, "gpujob-lab");
    let authority_key = KeyPair::generate()?;
    let certificate = authority.self_signed(&authority_key)?.pem();
    write(&paths.pki("ca.crt"), &certificate)?;
    write(&paths.pki("ca.key"), &authority_key.serialize_pem())?;
    let issuer = Issuer::new(authority, authority_key);

    let service_accounts = KeyPair::generate()?;
    write(&paths.pki("service-accounts.key"), &service_accounts.serialize_pem())?;
    write(&paths.pki("service-accounts.pub"), &service_accounts.public_key_pem())?;

    let mut server = CertificateParams::new(API_SERVER_NAMES.map(str::to_owned).to_vec())?;
    server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    issue(paths, &issuer, "apiserver", &server)?;

    for (name, user, group) in CLIENTS {
        let mut client = CertificateParams::default();
        client.distinguished_name.push(DnType::CommonName, user);
        if !group.is_empty() {
            client.distinguished_name.push(DnType::OrganizationName, group);
        }
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let (certificate_pem, key) = issue(paths, &issuer, name, &client)?;
        let [certificate_pem, key] = [certificate_pem, key].map(|pem| STANDARD.encode(pem));
        let user = format!("{{client-certificate-data: {certificate_pem}, client-key-data: {key}}}");
        let text = kubeconfig(API_SERVER, &STANDARD.encode(&certificate), &user);
        write(&paths.kubeconfig(name), &text)?;
    }
    Ok(())
}

/// The text of a kubeconfig: CA in base64, user as a YAML flow mapping.
pub fn kubeconfig(server: &str, authority: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
         clusters:\n- {{name: lab, cluster: {{server: \"{server}\", certificate-authority-data: {authority}}}}}\n\
         users:\n- {{name: lab, user: {user}}}\n\
         contexts:\n- {{name: lab, context: {{cluster: lab, user: lab}}}}\n"
    )
}

fn issue(paths: &Paths, issuer: &Issuer<'_, KeyPair>, name: &str, wanted: &CertificateParams) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let certificate = wanted.signed_by(&key, issuer)?.pem();
    let key = key.serialize_pem();
    write(&paths.pki(&format!("{name}.crt")), &certificate)?;
    write(&paths.pki(&format!("{name}.key")), &key)?;
    Ok((certificate, key))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeconfigs_are_ones_that_kube_reads() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let paths = Paths { state: folder.path().to_owned(), ..Paths::here() };
        ensure(&paths)?;
        let config = kube::config::Kubeconfig::read_from(paths.kubeconfig("admin"))?;
        assert_eq!(config.current_context.as_deref(), Some("lab"));
        let before = fs::read(paths.pki("ca.crt"))?;
        ensure(&paths)?;
        assert_eq!(before, fs::read(paths.pki("ca.crt"))?, "a second call must keep the keys");
        Ok(())
    }
}
