//! Nothing stays behind, whichever way a run ends.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ztun_tests::{mesh::ensure_nothing_left, run, scenario, topology};

use crate::two_nodes;

/// Set for the process that is to be killed.
const VICTIM: &str = "ZTUN_TESTS_VICTIM";

#[test]
fn a_mesh_leaves_nothing_behind() {
    let mut name = String::new();
    topology(two_nodes(), async |mesh| {
        mesh.name().clone_into(&mut name);
        assert!(!run::owned(&name).is_empty());
        Ok(())
    });
    if !name.is_empty() {
        ensure_nothing_left(&name).unwrap();
    }
}

#[test]
fn a_killed_run_is_cleaned_up_by_the_next() {
    if env::var_os(VICTIM).is_some() {
        return be_killed();
    }
    if let Err(reason) = scenario::can_build_networks() {
        return scenario::skip("cleanup::a_killed_run_is_cleaned_up_by_the_next", &reason);
    }
    let killed = kill_a_run().unwrap();
    assert!(!run::owned(&killed).is_empty(), "the test kills nothing");
    run::remove_dead_runs().unwrap();
    ensure_nothing_left(&killed).unwrap();
}

/// Runs this test in a process of its own, and kills it when its mesh is there. Answers the mesh's name.
fn kill_a_run() -> Result<String> {
    let mut victim = Command::new(env::current_exe()?)
        .args(["--exact", "--nocapture"])
        .arg("cleanup::a_killed_run_is_cleaned_up_by_the_next")
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let output = victim.stdout.take().context("no output")?;
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let name = lines.find_map(|line| Some(line.split_once("mesh ")?.1.to_owned()));
    victim.kill()?;
    victim.wait()?;
    ensure!(name.is_some(), "the run ended before it had a mesh");
    Ok(name.unwrap_or_default())
}

fn be_killed() {
    topology(two_nodes(), async |mesh| {
        let program = mesh.pod("shop/client").command("sleep")?.arg("600").spawn();
        println!("mesh {}", mesh.name());
        thread::sleep(Duration::from_mins(1));
        drop(program);
        Ok(())
    });
}
