//! What is read again when something is reported.

use super::*;

/// A directory that is looked at only where something is reported.
struct Followed {
    directory: TempDir,
    state: DirectoryState,
}

impl Followed {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::create_dir_all(directory.path().join(name).parent().unwrap()).unwrap();
            fs::write(directory.path().join(name), text).unwrap();
        }
        let mut state = DirectoryState::new(directory.path(), settings());
        state.reload(&Reported::everywhere()).unwrap();
        Self { directory, state }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// The pods of the mesh once a change at the paths was reported.
    fn after(&mut self, names: &[&str]) -> Vec<String> {
        let mut reported = Reported::default();
        reported.add(names.iter().map(|name| self.path(name)).collect());
        self.state.reload(&reported).unwrap();
        let snapshot = self.state.snapshot();
        let pods = snapshot.workloads().map(|it| it.pod.name.to_string());
        pods.collect()
    }
}

#[test]
fn a_reported_file_is_read_and_no_other() {
    let mut followed = Followed::new(&[("a.yaml", &pod("a", "10.0.0.1")), ("sub/b.yaml", "")]);
    followed.write("a.yaml", &pod("a2", "10.0.0.1"));
    followed.write("sub/b.yaml", &pod("b", "10.0.0.2"));
    followed.write("new.yaml", &pod("new", "10.0.0.3"));
    followed.write("notes.txt", "");
    assert_eq!(followed.after(&["notes.txt"]), ["a"]);
    assert_eq!(followed.after(&["sub/b.yaml"]), ["a", "b"]);
    assert_eq!(followed.after(&["new.yaml"]), ["a", "b", "new"]);
    assert_eq!(followed.after(&["a.yaml"]), ["a2", "b", "new"]);
    fs::remove_file(followed.path("sub/b.yaml")).unwrap();
    assert_eq!(followed.after(&["sub/b.yaml"]), ["a2", "new"]);
}

#[test]
fn what_is_reported_of_a_directory_or_a_link_concerns_all_files() {
    type Happening = fn(&Followed) -> io::Result<()>;
    let reported: [(&str, Happening); 5] = [
        ("sub", |it| fs::rename(it.path("sub"), it.path("other"))),
        ("dir.yaml", |it| fs::remove_dir_all(it.path("dir.yaml"))),
        ("fresh", |it| fs::create_dir(it.path("fresh"))),
        ("fresh/x.yaml", |it| fs::create_dir(it.path("fresh"))),
        ("link.yaml", |it| symlink("a.yaml", it.path("link.yaml"))),
    ];
    for (path, happens) in reported {
        let files = [("a.yaml", ""), ("sub/s.yaml", ""), ("dir.yaml/d.yaml", "")];
        let mut followed = Followed::new(&files);
        followed.write("a.yaml", &pod("a", "10.0.0.1"));
        happens(&followed).unwrap();
        assert_eq!(followed.after(&[path]), ["a"], "{path}");
    }
}

#[test]
fn where_files_go_by_several_names_all_are_looked_at() {
    let links: [fn(PathBuf, PathBuf); 2] = [
        |from, to| symlink(from, to).unwrap(),
        |from, to| fs::hard_link(from, to).unwrap(),
    ];
    for link in links {
        let mut followed = Followed::new(&[("a.yaml", "")]);
        link(followed.path("a.yaml"), followed.path("b.yaml"));
        assert!(followed.after(&["b.yaml"]).is_empty());
        followed.write("b.yaml", &pod("b", "10.0.0.1"));
        assert_eq!(followed.after(&["b.yaml"]), ["b"]);
        fs::remove_file(followed.path("b.yaml")).unwrap();
        assert_eq!(followed.after(&["b.yaml"]), ["b"], "a.yaml holds it too");
    }
}

#[test]
fn problems_are_told_again_only_when_they_are_others() {
    let mut followed = Followed::new(&[("a.yaml", &pod("a", "10.0.0.1"))]);
    let mut told = |name: &str, text: &str| {
        followed.write(name, text);
        followed.after(&[name]);
        let problems = followed.state.changed_problems();
        assert_eq!(
            followed.state.changed_problems().is_some(),
            text.contains("10.0.0.1")
        );
        problems.map(|problems| problems.len())
    };
    assert_eq!(
        told("b.yaml", &pod("b", "10.0.0.2")),
        Some(0),
        "the first time"
    );
    assert_eq!(told("b.yaml", &pod("b", "10.0.0.3")), None);
    assert_eq!(told("b.yaml", "kind: ["), Some(1));
    assert_eq!(told("c.yaml", &pod("c", "10.0.0.4")), None);
    assert_eq!(
        told("b.yaml", &pod("c", "10.0.0.5")),
        Some(1),
        "it is there twice"
    );
    assert_eq!(
        told("b.yaml", &pod("b", "10.0.0.1")),
        Some(1),
        "an address is contested"
    );
    assert_eq!(told("b.yaml", &pod("b", "10.0.0.2")), Some(0));
}
