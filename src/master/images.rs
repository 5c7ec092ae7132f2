//! Which program image each generation runs.
//!
//! The first generation runs what this master runs, even if the file was replaced since. A reload opens the file that is
//! on disk at that moment and holds it, so that a restart within a generation, or a return to it, runs its own code.

use std::collections::HashMap;

use crate::model::{Generation, SpawnFailure};
use crate::process::Image;

/// The images of all generations but the first.
#[derive(Debug, Default)]
pub(crate) struct Images {
    images: HashMap<Generation, Result<Image, SpawnFailure>>,
}

impl Images {
    /// Opens what is on disk now. That it cannot be opened is told when a worker is to run it.
    pub(crate) fn add(&mut self, generation: Generation) {
        self.images.insert(generation, Image::on_disk());
    }

    /// Nobody will run it any more.
    pub(crate) fn remove(&mut self, generation: Generation) {
        self.images.remove(&generation);
    }

    /// The image of a generation; `None` for the one this master runs.
    pub(crate) fn of(&self, generation: Generation) -> Result<Option<&Image>, SpawnFailure> {
        match self.images.get(&generation) {
            None => Ok(None),
            Some(Ok(image)) => Ok(Some(image)),
            Some(Err(failure)) => Err(failure.clone()),
        }
    }
}
