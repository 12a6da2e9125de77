//! Writes the CRDs' YAML to where it is committed: `crds/yaml` for people, `charts/gpujob/files/crds` for the chart.

use std::{fs, path::Path};

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, yaml) in gpujob_crds::generate::all() {
        for folder in gpujob_crds::generate::FOLDERS {
            let folder = root.join(folder);
            fs::create_dir_all(&folder)?;
            fs::write(folder.join(&name), &yaml)?;
        }
        println!("{name}: {} bytes", yaml.len());
    }
    Ok(())
}
