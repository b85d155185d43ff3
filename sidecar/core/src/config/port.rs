//! The port for other sidecars when none is given (contract `flags-env-annotations`, section 1.2).

use std::net::{Ipv4Addr, TcpListener};

use sha2::{Digest, Sha256};

const FIRST: u16 = 47300;

/// The port that the same app on the same host gets at every start: a hash of app id, working directory, user id and
/// host name, within 47300..65535.
pub fn stable_port(app_id: &str, cwd: &str, uid: &str, hostname: &str) -> u16 {
    let digest = Sha256::digest(format!("{app_id}|{cwd}|{uid}|{hostname}"));
    let offset = u16::from_le_bytes([digest[0], digest[1]]) % (u16::MAX - FIRST);
    FIRST + offset
}

/// The stable port if it is free on localhost, any free port otherwise.
///
/// # Errors
/// If the system has no free port.
pub fn choose_internal_port(stable: u16) -> std::io::Result<u16> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = bind(stable).or_else(|_| bind(0))?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_inputs_give_the_same_port_and_others_another() {
        let port = stable_port("myapp", "/work", "1000", "host");
        // sha256("myapp|/work|1000|host") starts with the two bytes below.
        let digest = Sha256::digest("myapp|/work|1000|host");
        let expected = 47300 + (u32::from(digest[0]) + 256 * u32::from(digest[1])) % 18235;
        assert_eq!(u32::from(port), expected);
        assert_ne!(port, stable_port("other", "/work", "1000", "host"));
    }

    #[test]
    fn a_taken_port_is_replaced_by_a_free_one() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let chosen = choose_internal_port(port).unwrap();
        assert_ne!(chosen, port);
        drop(taken);
        assert_eq!(choose_internal_port(port).unwrap(), port);
    }
}
