//! Whether the programs and maps that an earlier daemon left for a pod are those of this daemon.

use std::io;

use aya::maps::{Map, MapData, MapError};

use super::{
    bpf::program_tag,
    link::PinnedLink,
    pins::{Generation, LINKS, MAPS},
    programs::{PodPrograms, ProgramsError},
    with_causes,
};

/// Equal for two captures that do the same and keep their state in the same form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The hashes of the programs' instructions, in the order of [`LINKS`].
    programs: [u64; LINKS.len()],
    /// In the order of [`MAPS`].
    maps: [Shape; MAPS.len()],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shape {
    /// As aya names it, or 0.
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

impl Fingerprint {
    /// Of programs that are loaded.
    pub fn of_programs(pod: &mut PodPrograms) -> Result<Self, ProgramsError> {
        let mut programs = [0; LINKS.len()];
        for (tag, name) in programs.iter_mut().zip(LINKS) {
            *tag = pod.tag(name)?;
        }
        let mut maps = [Shape::default(); MAPS.len()];
        for (shape, name) in maps.iter_mut().zip(MAPS) {
            let data = data(pod.map(name)?).ok_or(ProgramsError::Absent(name))?;
            *shape = Shape::of(data).map_err(|error| ProgramsError::Map {
                map: name,
                reason: with_causes(&error),
            })?;
        }
        Ok(Self { programs, maps })
    }

    /// Of what is pinned and attached.
    pub fn of_generation(generation: &Generation) -> io::Result<Self> {
        let mut programs = [0; LINKS.len()];
        for (tag, name) in programs.iter_mut().zip(LINKS) {
            let id = PinnedLink::open(&generation.path(name))?.program()?;
            *tag = u64::from_be_bytes(program_tag(id)?);
        }
        let mut maps = [Shape::default(); MAPS.len()];
        for (shape, name) in maps.iter_mut().zip(MAPS) {
            let data = MapData::from_pin(generation.path(name)).map_err(io::Error::other)?;
            *shape = Shape::of(&data).map_err(io::Error::other)?;
        }
        Ok(Self { programs, maps })
    }
}

impl Shape {
    fn of(map: &MapData) -> Result<Self, MapError> {
        let info = map.info()?;
        Ok(Self {
            kind: info.map_type()? as u32,
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            flags: info.map_flags(),
        })
    }
}

fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::SockHash(data) | Map::HashMap(data) | Map::PerCpuArray(data) | Map::Array(data) => {
            Some(data)
        }
        _ => None,
    }
}
