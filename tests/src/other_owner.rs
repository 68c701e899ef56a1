//! What other owners of eBPF on a node do, as programs written by hand.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::RawFd,
};

use anyhow::Result;

use crate::bpf::{Hook, Instruction, Program, Slot};

/// The registers that the programs use.
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
/// Keeps the context over calls.
const CONTEXT: u8 = 6;
const SOCKET: u8 = 7;
const FRAME: u8 = 10;

// Fields of `struct bpf_sock_addr`.
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;
/// Of `struct bpf_sk_lookup`.
const LOCAL_PORT: i16 = 60;

// Helper functions.
const MAP_LOOKUP_ELEM: i32 = 1;
const SK_RELEASE: i32 = 86;
const SK_ASSIGN: i32 = 124;

/// What a program gives back to let the connection or packet go on.
const ALLOW: i32 = 1;
const TCX_NEXT: i32 = -1;

/// Sends connections to `from` to `to` instead, as a CNI's socket load balancer does.
pub fn load_balancer(from: SocketAddr, to: SocketAddr) -> Result<Program> {
    let (hook, field) = match from.ip() {
        IpAddr::V4(_) => (Hook::Connect4, USER_IP4),
        IpAddr::V6(_) => (Hook::Connect6, USER_IP6),
    };
    let wanted: Vec<(i16, u32)> = fields(field, from);
    let replaced = fields(field, to);
    let mut code = vec![move_register(CONTEXT, R1)];
    // Each comparison is two instructions, each replacement too.
    let mut rest = 2 * (wanted.len() + replaced.len());
    for (offset, word) in wanted {
        rest -= 2;
        code.push(load(R2, CONTEXT, offset));
        code.push(skip_if_not(R2, word, rest));
    }
    for (offset, word) in replaced {
        code.push(move_word(R2, word.cast_signed()));
        code.push(store(CONTEXT, offset, R2));
    }
    code.push(move_word(R0, ALLOW));
    code.push(exit());
    Program::load(hook, &code)
}

/// Counts packets and lets the next program have them.
pub fn packet_counter(hook: Hook, counter: &Slot) -> Result<Program> {
    let mut code = lookup(counter.fd(), 2);
    code.push(move_word(R1, 1));
    code.push(add_atomically(R0, R1));
    code.push(move_number(R0, TCX_NEXT));
    code.push(exit());
    Program::load(hook, &code)
}

/// Gives what arrives for `port` to the listener in `socket`, wherever that listens.
pub fn port_steerer(port: u16, socket: &Slot) -> Result<Program> {
    let found = [
        move_register(SOCKET, R0),
        move_register(R1, CONTEXT),
        move_register(R2, SOCKET),
        move_word(R3, 0),
        call(SK_ASSIGN),
        move_register(R1, SOCKET),
        call(SK_RELEASE),
    ];
    let lookup = lookup(socket.fd(), found.len());
    let mut code = vec![move_register(CONTEXT, R1), load(R2, CONTEXT, LOCAL_PORT)];
    code.push(skip_if_not(R2, port.into(), lookup.len() + found.len()));
    code.extend(lookup);
    code.extend(found);
    code.push(move_word(R0, ALLOW));
    code.push(exit());
    Program::load(Hook::SkLookup, &code)
}

/// The fields of a `struct bpf_sock_addr` that hold an address: offset and value.
fn fields(start: i16, address: SocketAddr) -> Vec<(i16, u32)> {
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = octets.as_chunks().0.iter().copied().map(u32::from_ne_bytes);
    let mut fields: Vec<(i16, u32)> = (start..).step_by(4).zip(words).collect();
    fields.push((USER_PORT, address.port().to_be().into()));
    fields
}

/// Looks up the only value of a map, and skips `rest` instructions if there is none.
fn lookup(map: RawFd, rest: usize) -> Vec<Instruction> {
    let [low, high] = load_map(R1, map);
    vec![
        low,
        high,
        store_zero(FRAME, -4),
        move_register(R2, FRAME),
        add(R2, -4),
        call(MAP_LOOKUP_ELEM),
        skip_if_zero(R0, rest),
    ]
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    let registers = if cfg!(target_endian = "little") {
        from << 4 | to
    } else {
        to << 4 | from
    };
    let [o0, o1] = offset.to_ne_bytes();
    let [v0, v1, v2, v3] = value.to_ne_bytes();
    [code, registers, o0, o1, v0, v1, v2, v3]
}

fn move_register(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

fn move_number(to: u8, value: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, value)
}

/// The upper half becomes 0.
fn move_word(to: u8, value: i32) -> Instruction {
    instruction(0xb4, to, 0, 0, value)
}

fn add(to: u8, value: i32) -> Instruction {
    instruction(0x07, to, 0, 0, value)
}

/// Reads a word.
fn load(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x61, to, from, offset, 0)
}

/// Writes a word.
fn store(to: u8, offset: i16, from: u8) -> Instruction {
    instruction(0x63, to, from, offset, 0)
}

fn store_zero(to: u8, offset: i16) -> Instruction {
    instruction(0x62, to, 0, offset, 0)
}

/// Adds `from` to the eight bytes at `to`.
fn add_atomically(to: u8, from: u8) -> Instruction {
    instruction(0xdb, to, from, 0, 0)
}

fn load_map(to: u8, map: RawFd) -> [Instruction; 2] {
    const MAP_BY_DESCRIPTOR: u8 = 1;
    [
        instruction(0x18, to, MAP_BY_DESCRIPTOR, 0, map),
        instruction(0, 0, 0, 0, 0),
    ]
}

fn skip_if_not(register: u8, word: u32, count: usize) -> Instruction {
    instruction(0x56, register, 0, distance(count), word.cast_signed())
}

fn skip_if_zero(register: u8, count: usize) -> Instruction {
    instruction(0x15, register, 0, distance(count), 0)
}

fn distance(count: usize) -> i16 {
    // The programs here are a few dozen instructions long.
    i16::try_from(count).unwrap_or(i16::MAX)
}

fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}

fn exit() -> Instruction {
    instruction(0x95, 0, 0, 0, 0)
}
