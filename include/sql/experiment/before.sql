-- The same users with the days before exposure that make the covariate.
SELECT
    user_id,
    date_sub(exposed_on, :pre_days) AS first_day,
    date_sub(exposed_on, 1) AS as_of,
    :pre_days AS num_days
FROM exposures
WHERE experiment = :experiment AND exposed_on <= :as_of AND excluded IS NULL
