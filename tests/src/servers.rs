//! Real servers in pods.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};

use crate::{mesh::Mesh, pod::Pod, wait};

pub const NGINX_PORT: u16 = 80;
pub const HTTPBIN_PORT: u16 = 8000;
pub const REDIS_PORT: u16 = 6379;
pub const MARIADB_PORT: u16 = 3306;

/// A server process in a pod, killed when it is dropped.
pub struct Server {
    process: Child,
    directory: PathBuf,
}

impl Server {
    /// nginx on port 80 of both families, with `files` (name, content) as its site.
    pub async fn nginx(mesh: &Mesh, pod: &Pod, files: &[(&str, &[u8])]) -> Result<Self> {
        let directory = directory_of(mesh, pod, "nginx")?;
        let site = directory.join("site");
        fs::create_dir_all(&site)?;
        for (name, content) in files {
            fs::write(site.join(name), content)?;
        }
        let configuration = directory.join("nginx.conf");
        fs::write(&configuration, nginx_configuration(&directory))?;
        let mut command = pod.command("nginx")?;
        command.arg("-c").arg(&configuration);
        // Before nginx has read its configuration it writes to a log of the system's otherwise.
        command.arg("-e").arg(directory.join("error.log"));
        Self::start(command, directory, pod, NGINX_PORT).await
    }

    /// httpbin, served by gunicorn, on port 8000 of both families.
    pub async fn httpbin(mesh: &Mesh, pod: &Pod) -> Result<Self> {
        let directory = directory_of(mesh, pod, "httpbin")?;
        let mut command = pod.command("gunicorn")?;
        command
            .args(["--workers", "1", "--threads", "4"])
            .args(["--bind", &format!("[::]:{HTTPBIN_PORT}")])
            .arg("--worker-tmp-dir")
            .arg(&directory)
            .arg("httpbin:app");
        Self::start(command, directory, pod, HTTPBIN_PORT).await
    }

    /// Redis on port 6379 of both families, in memory only, open to everybody.
    pub async fn redis(mesh: &Mesh, pod: &Pod) -> Result<Self> {
        let directory = directory_of(mesh, pod, "redis")?;
        let mut command = pod.command("redis-server")?;
        command
            .args(["--port", &REDIS_PORT.to_string()])
            .args(["--bind", "*", "-::*"])
            .args(["--protected-mode", "no", "--save", "", "--dir"])
            .arg(&directory);
        Self::start(command, directory, pod, REDIS_PORT).await
    }

    /// `MariaDB` on `port` of both families, with the database `test`, open to everybody.
    pub async fn mariadb(mesh: &Mesh, pod: &Pod, port: u16) -> Result<Self> {
        let directory = directory_of(mesh, pod, "mariadb")?;
        let data = directory.join("data");
        install_mariadb(&data).await?;
        fs::create_dir_all(data.join("test"))?;
        let mut command = pod.command("mariadbd")?;
        command
            .args(["--no-defaults", "--user=root", "--bind-address=*"])
            .args(["--skip-grant-tables", "--skip-name-resolve"])
            .arg(format!("--port={port}"))
            .arg(option("--datadir", &data))
            .arg(option("--socket", &directory.join("mariadb.sock")))
            .arg(option("--pid-file", &directory.join("mariadb.pid")));
        Self::start(command, directory, pod, port).await
    }

    async fn start(mut command: Command, directory: PathBuf, pod: &Pod, port: u16) -> Result<Self> {
        let log = fs::File::create(directory.join("output.log"))?;
        let process = command
            .current_dir(&directory)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start the server on port {port}"))?;
        let mut server = Self { process, directory };
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut exited = false;
        wait::until(format_args!("port {port} answers"), async || {
            exited = server
                .process
                .try_wait()
                .is_ok_and(|status| status.is_some());
            exited || pod.connect(loopback).await.is_ok()
        })
        .await
        .with_context(|| server.log())?;
        ensure!(!exited, "the server has ended at once: {}", server.log());
        Ok(server)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("output.log")).unwrap_or_default()
    }
}

/// Runs a client in `pod` to its end; answers what it printed, or fails with its errors.
pub async fn client(pod: &Pod, program: &str, arguments: &[&str]) -> Result<String> {
    let output = pod
        .command(program)?
        .args(arguments)
        .output()
        .await
        .with_context(|| format!("start {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {}: {}: {errors}",
        arguments.join(" "),
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn directory_of(mesh: &Mesh, pod: &Pod, server: &str) -> Result<PathBuf> {
    mesh.scratch(&format!("{}-{server}", pod.spec.name))
}

fn nginx_configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    sendfile on;
    server {{
        listen {NGINX_PORT};
        listen [::]:{NGINX_PORT};
        root {directory}/site;
        location = /client {{ return 200 $remote_addr; }}
    }}
}}
"
    )
}

async fn install_mariadb(data: &Path) -> Result<()> {
    let installed = Command::new("mariadb-install-db")
        .args(["--no-defaults", "--user=root", "--skip-test-db"])
        .arg("--auth-root-authentication-method=normal")
        .arg(option("--datadir", data))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("start mariadb-install-db")?;
    ensure!(
        installed.status.success(),
        "mariadb-install-db: {}{}",
        String::from_utf8_lossy(&installed.stdout),
        String::from_utf8_lossy(&installed.stderr)
    );
    Ok(())
}

fn option(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}
