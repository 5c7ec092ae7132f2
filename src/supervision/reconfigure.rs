//! Other rules and other descriptions while the cluster runs: OTP's code change of a supervisor.
//!
//! The whole change is looked at before any of it is done, so a refused one leaves everything as it was. Nobody is started
//! or stopped by it: workers that run go on, new specs wait to be started, specs that are not named stay. Not here: how the
//! workers of a changed spec are replaced (that is a reload).

use std::sync::Arc;

use crate::model::SpecFault;
use crate::policy::{AutoShutdown, RestartIntensity, RestartStrategy, WhenEmpty, Window};

use super::seat::SpecKey;
use super::{Action, RequestId, SpecConfig, SpecRefused, Supervision};

/// What is to be different; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reconfiguration {
    pub(crate) strategy: Option<Arc<dyn RestartStrategy>>,
    /// `Some(None)`: no limit.
    pub(crate) intensity: Option<Option<RestartIntensity>>,
    pub(crate) auto_shutdown: Option<AutoShutdown>,
    pub(crate) when_empty: Option<WhenEmpty>,
    /// In place of those with their names; others are taken in at the end, stopped.
    pub(crate) specs: Vec<SpecConfig>,
    /// Must each of them be there already?
    pub(crate) only_known: bool,
}

impl Supervision {
    pub(super) fn reconfigure(&mut self, request: RequestId, changes: Reconfiguration) {
        let result = self.check_changes(&changes);
        if result.is_ok() {
            self.actions.push_back(Action::SpecsTaken { request });
            self.apply(changes);
        }
        self.answer_spec(request, result);
    }

    fn check_changes(&self, changes: &Reconfiguration) -> Result<(), SpecRefused> {
        if self.is_stopping() {
            return Err(SpecRefused::Stopping);
        }
        if changes
            .intensity
            .flatten()
            .is_some_and(|intensity| intensity.period.is_zero())
        {
            return Err(SpecRefused::InvalidRules(NO_PERIOD));
        }
        let rule = changes.auto_shutdown.unwrap_or(self.config.auto_shutdown);
        for (place, spec) in changes.specs.iter().enumerate() {
            let checked = spec.check(rule);
            checked.map_err(|why| SpecRefused::Invalid(spec.name.clone(), why))?;
            if changes.specs[..place].iter().any(|other| other.name == spec.name) {
                return Err(SpecRefused::Invalid(spec.name.clone(), SpecFault::NamedTwice));
            }
            if changes.only_known && !self.by_name.contains_key(&spec.name) {
                return Err(SpecRefused::NotFound(spec.name.clone()));
            }
        }
        Ok(())
    }

    fn apply(&mut self, changes: Reconfiguration) {
        if let Some(strategy) = changes.strategy {
            self.config.strategy = strategy;
        }
        if let Some(intensity) = changes.intensity {
            self.config.intensity = intensity;
            self.restarts = retuned(self.restarts.take(), intensity);
        }
        if let Some(rule) = changes.auto_shutdown {
            self.config.auto_shutdown = rule;
        }
        if let Some(rule) = changes.when_empty {
            self.config.when_empty = rule;
        }
        for config in changes.specs {
            match self.by_name.get(&config.name) {
                Some(&key) => self.replace_spec(key, config),
                None => {
                    self.add_spec(config, false);
                }
            }
        }
    }

    /// Restarts that were counted stay counted, for another limit.
    fn replace_spec(&mut self, key: SpecKey, config: SpecConfig) {
        for seat in self.roster.keys_of(key) {
            let window = &mut self.roster.seat_mut(seat).window;
            window.retune(config.limit.max, config.limit.period);
        }
        self.standbys.want(key, config.standby);
        if let Some(spec) = self.specs.get_mut(&key) {
            spec.window = retuned(spec.window.take(), config.intensity);
            spec.config = config;
        }
    }
}

fn retuned(window: Option<Window>, intensity: Option<RestartIntensity>) -> Option<Window> {
    let intensity = intensity?;
    let mut window = window.unwrap_or_else(|| intensity.into());
    window.retune(intensity.max, intensity.period);
    Some(window)
}

/// What is wrong with an intensity whose period is zero.
pub(crate) const NO_PERIOD: &str = "the period of the restart intensity is zero; give it a length";
