//! What the host wants done: `/plan.json` in the initramfs.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub cgroups: CgroupLayout,
    /// `rp_filter` of every interface of every network namespace.
    pub reverse_path_filter: u8,
    pub environment: BTreeMap<String, String>,
    pub runs: Vec<Run>,
}

/// How cgroups are mounted.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupLayout {
    /// Version 2 alone.
    Unified,
    /// Version 2 beside controllers of version 1.
    Hybrid,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    pub name: String,
    pub program: PathBuf,
    pub arguments: Vec<String>,
}

impl Plan {
    pub fn read() -> Result<Self> {
        let path = "/plan.json";
        let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
        serde_json::from_str(&text).with_context(|| format!("{path} is no plan"))
    }
}
