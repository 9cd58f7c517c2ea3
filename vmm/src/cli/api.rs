//! `--api-socket PATH` and `--name NAME` of `ferry run`, and where the other commands find what these made.

use super::{Exit, Failure, shown};
use devices::host::Problem;
use std::env;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vmm::api::{ApiSocket, Server};

/// Serves the API where the user wants it; nowhere if he doesn't.
pub(super) fn serve(
    path: Option<&Path>,
    name: Option<&str>,
) -> Result<Option<Arc<Server>>, Failure> {
    let set_up = |problem| Failure {
        exit: Exit::HostSetUp,
        problems: vec![problem],
    };
    let path = match (path, name) {
        (None, None) => return Ok(None),
        (Some(path), None) => path.to_owned(),
        (None, Some(name)) => {
            let path = socket_of(name).map_err(Failure::usage)?;
            make_folder(&path).map_err(set_up)?;
            path
        }
        (Some(_), Some(_)) => {
            return Err(Failure::usage(Problem::new(
                "--api-socket and --name are given together",
                "both say where the API socket is",
                "leave one out",
            )));
        }
    };
    let socket = ApiSocket::bind(&path).map_err(|error| set_up(error.problem()))?;
    let server = Server::start(socket).map_err(|error| {
        set_up(Problem::new(
            "the API can't be served",
            error.to_string(),
            "see the limits on processes and open files: ulimit -a",
        ))
    })?;
    Ok(Some(Arc::new(server)))
}

/// Where the socket of the guest with this name is.
pub(super) fn socket_of(name: &str) -> Result<PathBuf, Problem> {
    let root = rustix::process::geteuid().is_root();
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    place(name, root, runtime.as_deref())
}

fn place(name: &str, root: bool, runtime: Option<&Path>) -> Result<PathBuf, Problem> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 32 || name.starts_with('.') || !name.chars().all(allowed) {
        return Err(Problem::new(
            format!("{} can't be a guest's name", shown(name)),
            "a name is up to 32 letters, digits and '-_.', and does not begin with '.'",
            "choose another, e.g. --name web1, or name the socket by its path",
        ));
    }
    let folder = match runtime {
        _ if root => Path::new("/run"),
        Some(runtime) if runtime.is_absolute() => runtime,
        _ => {
            return Err(Problem::new(
                format!("there is no place for the name {name}"),
                "XDG_RUNTIME_DIR, the folder for such things, is not set",
                "name the socket by its path: --api-socket PATH when the guest starts, --socket PATH afterwards",
            ));
        }
    };
    Ok(folder.join("ferry").join(format!("{name}.sock")))
}

fn make_folder(socket: &Path) -> Result<(), Problem> {
    let Some(folder) = socket.parent() else {
        return Ok(());
    };
    let made = DirBuilder::new().mode(0o700).recursive(true).create(folder);
    made.map_err(|error| {
        Problem::new(
            format!("{} can't be made", folder.display()),
            error.to_string(),
            "name the socket by its path: --api-socket PATH",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_socket_in_the_runtime_folder() {
        let runtime = Some(Path::new("/run/user/1000"));
        let path = |name, root, runtime| place(name, root, runtime).unwrap();
        assert_eq!(
            path("web1", true, runtime),
            Path::new("/run/ferry/web1.sock")
        );
        assert_eq!(
            path("web1", false, runtime),
            Path::new("/run/user/1000/ferry/web1.sock")
        );
        let problem = place("web1", false, None).unwrap_err();
        assert!(problem.why.starts_with("XDG_RUNTIME_DIR"), "{problem}");
        assert!(place("web1", false, Some(Path::new("relative"))).is_err());
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            ".hidden",
            "a b",
            "ä",
            &"x".repeat(33),
        ] {
            assert!(place(name, true, None).is_err(), "{name}");
        }
    }
}
