//! Arithmetic: every kernel once, generic over an instruction set, chosen at run time.
//!
//! An operation is a plain struct that holds its arguments and implements [`Op`];
//! [`Kernel::run`] compiles it for each instruction set; larger ones, as [`matmul::MatMul`],
//! consist of such. `scalar` is the specification, and all others give its very bits (see
//! [`Simd`]). A row's result depends on that row alone: not on how many rows are computed
//! beside it, nor on how work is split.
//!
//! Not here: threads (see [`crate::pool`]), the order of operations (see
//! [`crate::transformer`]).

#[cfg(target_arch = "aarch64")]
mod aarch64;
pub mod activations;
pub mod attention;
mod codecs;
pub mod low_rank;
pub mod matmul;
pub mod prefetch;
pub mod rows;
mod scalar;
mod simd;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use crate::error::{Error, Result};
pub use simd::Simd;

/// An operation that can run on any instruction set.
pub trait Op {
    /// What it returns.
    type Output;
    /// Does it. Implementations are `#[inline(always)]`, and so is all that they call:
    /// only then is the code compiled for the instruction set.
    fn run<S: Simd>(self, isa: S) -> Self::Output;
}

/// An instruction set that this processor has.
#[derive(Clone, Copy)]
pub struct Kernel(Isa);

#[derive(Clone, Copy)]
enum Isa {
    Scalar(scalar::Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(x86_64::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(x86_64::Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(aarch64::Neon),
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Kernel {
    /// Those that this processor has, slowest first; the scalar one is always there.
    pub fn available() -> Vec<Kernel> {
        let mut found = vec![Kernel(Isa::Scalar(scalar::Scalar))];
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(x86_64::Avx2::new().map(|isa| Kernel(Isa::Avx2(isa))));
            found.extend(x86_64::Avx512::new().map(|isa| Kernel(Isa::Avx512(isa))));
        }
        #[cfg(target_arch = "aarch64")]
        found.extend(aarch64::Neon::new().map(|isa| Kernel(Isa::Neon(isa))));
        found
    }

    /// The fastest one.
    pub fn best() -> Kernel {
        *Self::available().last().expect("the scalar kernel is always there")
    }

    /// The one called `name`, or what there is instead.
    pub fn named(name: &str) -> Result<Kernel> {
        let available = Self::available();
        available.iter().copied().find(|kernel| kernel.name() == name).ok_or_else(|| {
            let names: Vec<_> = available.iter().map(|kernel| kernel.name()).collect();
            Error::InvalidArgument(format!("no kernel {name:?} on this processor, which has {}", names.join(", ")))
        })
    }

    /// `scalar`, `avx2`, `avx512` or `neon`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Isa::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => "neon",
        }
    }

    /// Runs `op`, compiled for this instruction set.
    #[inline]
    pub fn run<O: Op>(self, op: O) -> O::Output {
        match self.0 {
            Isa::Scalar(isa) => op.run(isa),
            // SAFETY: the value proves that the processor has the features.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(isa) => unsafe { run_avx2(isa, op) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(isa) => unsafe { run_avx512(isa, op) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(isa) => unsafe { run_neon(isa, op) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<O: Op>(isa: x86_64::Avx2, op: O) -> O::Output {
    op.run(isa)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn run_avx512<O: Op>(isa: x86_64::Avx512, op: O) -> O::Output {
    op.run(isa)
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
fn run_neon<O: Op>(isa: aarch64::Neon, op: O) -> O::Output {
    op.run(isa)
}
