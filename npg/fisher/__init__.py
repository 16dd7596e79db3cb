"""The Fisher information matrix of a policy as a linear operator.

For a policy π_θ(a | s) with score s_θ = ∇log π_θ and N states,

    F = 1/N Σ_s E_a[s_θ s_θᵀ] = 1/N Σ_s J_sᵀ M_s J_s,

where J is the Jacobian of the distribution's coordinates z (means, logits) with respect to the parameters and
M the distribution's metric, which each family has in closed form.

| operator                    | file              | matrix                        | one product           |
|-----------------------------|-------------------|-------------------------------|-----------------------|
| ExactFisher                 | exact             | Jᵀ M J, over all actions      | 2 backward passes     |
| FiniteDifferenceFisher      | finite_difference | the same, J v by a difference | 1 forward, 1 backward |
| KLHessian                   | hessian           | the same, two derivatives     | about 3 backward      |
| SampledFisher               | score             | s sᵀ, k actions from π        | 2 backward            |
| EmpiricalFisher             | score             | s sᵀ, actions taken           | 2 backward            |
| LikelihoodHessian           | hessian           | −∇² log π, actions taken      | about 3 backward      |
| DiagonalFisher *            | diagonal          | diag(F)                       | P multiplications     |
| BlockDiagonalFisher *       | block_diagonal    | F within each module          | dense blocks          |
| KroneckerFisher *           | kfac              | A ⊗ G per layer               | small matrices        |
| EigenvalueCorrectedFisher * | ekfac             | U diag(S) Uᵀ per layer        | small matrices        |
| ShrunkFisher *              | shrunk            | (1 − ρ) F_m + ρ K-FAC         | K-FAC, a low rank     |

Those marked * have an inverse in closed form. `KroneckerStepper` (kronecker_step) is ACKTR's step. For a
sequence of linear layers, `chain` computes the products of `ExactFisher` and score.py without autograd.
docs/fisher.md compares costs and errors.

An operator belongs to the parameters that the policy had at its construction; with micro-batches it keeps a
copy of them. Kakade 2001, "A natural policy gradient"; for the exact and the empirical matrix, Martens 2020,
"New insights and perspectives on the natural gradient method".
"""
